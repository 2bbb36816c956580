#include "engine/step.h"

#include <chrono>

namespace gossamer {

Step::Step(const Plan& plan, Cache& cache, Team& team, bool int8, int64_t max_tokens)
    : context_(plan, cache, team, int8, max_tokens), profile_(plan.ops.size()) {
  for (const Op& op : plan.ops)
    work_.push_back(std::visit([this](const auto& one) { return ready(one, context_); }, op));
  context_.make_room();
}

void Step::run(const StepInput& input) {
  context_.begin(input);
  context_.team.run([this](int member) { walk(member); });
}

void Step::walk(int member) {
  using Clock = std::chrono::steady_clock;
  const bool timed = profile_on_ && member == 0;
  for (size_t index = 0; index < work_.size(); ++index) {
    const auto start = timed ? Clock::now() : Clock::time_point();
    work_[index](member);
    context_.team.barrier();
    if (timed) profile_[index] += std::chrono::duration<double>(Clock::now() - start).count();
  }
}

std::vector<double> Step::take_profile() {
  std::vector<double> seconds(profile_.size());
  seconds.swap(profile_);
  return seconds;
}

}  // namespace gossamer
