// What the ops of a step share: the rows that are being read, the buffers, and room for one op at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/cache.h"
#include "engine/plan.h"
#include "engine/team.h"

namespace gossamer {

// Consecutive new tokens of one sequence, in consecutive rows of the step.
struct Run {
  int64_t first_row = 0, count = 0;
  int64_t position = 0;             // of the first of them
  const int32_t* blocks = nullptr;  // of the sequence; enough for all of its tokens
};

struct StepInput {
  int64_t tokens = 0;
  const int32_t* ids = nullptr;
  const std::vector<Run>* runs = nullptr;
  const std::vector<int32_t>* wanted = nullptr;  // rows whose logits are wanted
  float* logits = nullptr;                       // [wanted, outputs]
};

inline int64_t padded(int64_t width) { return (width + 63) / 64 * 64; }

class StepContext {
 public:
  // max_tokens: rows of the largest step.
  StepContext(const Plan& plan, Cache& cache, Team& team, bool int8, int64_t max_tokens);
  StepContext(const StepContext&) = delete;

  const Plan& plan;
  Cache& cache;
  Team& team;
  const KernelTable& table;
  const bool int8;
  const int64_t max_tokens;
  StepInput input;

  void begin(const StepInput& next);
  const Run& run_of(int64_t token) const { return *run_of_[static_cast<size_t>(token)]; }
  int64_t position(int64_t token) const { return run_of(token).position + token - run_of(token).first_row; }
  float* row(int buffer, int64_t token) const {
    return buffers_[static_cast<size_t>(buffer)] + token * plan.width(buffer);
  }
  // [2][half], cosine and sine.
  float* angles(int rotary, int64_t token) const {
    return angle_pages_.get<float>() + (rotary * max_tokens + token) * kLargestHead;
  }

  // Room that all members share, and room of each member: as many bytes as the op wants that wants most. Ops say so as
  // they are made ready; pages that no step needs are never touched, and take no memory.
  void want_shared(int64_t bytes) { shared_bytes_ = std::max(shared_bytes_, bytes); }
  void want_own(int64_t bytes) { own_bytes_ = std::max(own_bytes_, bytes); }
  void make_room();
  uint8_t* shared() const { return shared_.get<uint8_t>(); }
  template <class T> T* own(int member) const { return own_[static_cast<size_t>(member)].get<T>(); }

 private:
  Pages buffer_pages_, angle_pages_, shared_;
  std::vector<float*> buffers_;
  std::vector<Pages> own_;  // by member
  int64_t shared_bytes_ = 0, own_bytes_ = 0;
  std::vector<const Run*> run_of_;  // by row
};

}  // namespace gossamer
