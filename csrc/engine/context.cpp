#include "engine/context.h"

namespace gossamer {

StepContext::StepContext(const Plan& plan, Cache& cache, Team& team, bool int8, int64_t max_tokens)
    : plan(plan),
      cache(cache),
      team(team),
      table(active_table()),
      int8(int8),
      max_tokens(max_tokens),
      run_of_(static_cast<size_t>(max_tokens)) {
  int64_t all = 0;
  for (int64_t width : plan.widths) all += padded(width);
  buffer_pages_ = Pages(all * max_tokens * 4);
  float* next = buffer_pages_.get<float>();
  for (int64_t width : plan.widths) {
    buffers_.push_back(next);
    next += padded(width) * max_tokens;
  }
  angle_pages_ = Pages(static_cast<int64_t>(plan.rotaries.size()) * kLargestHead * max_tokens * 4);
}

void StepContext::begin(const StepInput& next) {
  input = next;
  for (const Run& run : *input.runs) std::fill_n(run_of_.begin() + run.first_row, run.count, &run);
}

void StepContext::make_room() {
  shared_ = Pages(shared_bytes_);
  for (int member = 0; member < team.size(); ++member) own_.emplace_back(own_bytes_);
}

}  // namespace gossamer
