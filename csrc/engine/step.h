// Runs the ops of a plan over the rows of one step, with all members of a team side by side.
#pragma once

#include <vector>

#include "engine/context.h"

namespace gossamer {

class Step {
 public:
  // max_tokens: rows of the largest step.
  Step(const Plan& plan, Cache& cache, Team& team, bool int8, int64_t max_tokens);

  // Requires ids inside the vocabulary, positions below the plan's limit, blocks for all positions.
  void run(const StepInput& input);

  // Seconds that member 0 spent in each op since the last call; empty unless switched on.
  std::vector<double> take_profile();
  void set_profile(bool on) { profile_on_ = on; }

 private:
  void walk(int member);

  StepContext context_;
  std::vector<Work> work_;  // of each op
  bool profile_on_ = false;
  std::vector<double> profile_;
};

}  // namespace gossamer
