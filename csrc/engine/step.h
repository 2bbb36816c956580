// Runs the ops of a plan over the rows of one step, with all members of a team side by side.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine/cache.h"
#include "engine/plan.h"
#include "engine/team.h"
#include "kernels/activations.h"

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
  // Room for the activations of one linears op, in up to kLayouts forms: as many as it may have linears. What is not used
  // is never touched, and takes no memory.
  static constexpr size_t kLayouts = kMaxLinears, kForms = 4;
  struct Room {
    Pages pages;
    float* rows = nullptr;  // after the norm
    std::array<ActivationMemory, kLayouts> memory;
  };
  // What is known of a linears op before it runs.
  struct Compiled {
    std::array<std::vector<ActivationLayout>, kForms> layouts;  // by how many rows there are
    std::array<std::vector<size_t>, kForms> layout_of;          // of each linear
    std::vector<int64_t> strips_before;                         // of each linear, and in all
    std::vector<int64_t> share;                                 // first strip of each member
  };
  using Prepared = std::array<Activations, kLayouts>;

  Room make_room(int64_t tokens) const;
  Compiled compile(const LinearsOp& op) const;
  void work(int member);
  void run_op(int member, size_t index);

  void embed(int member, const EmbedOp& op);
  void linears(int member, const LinearsOp& op, const Compiled& compiled);
  void gate(int member, const GateOp& op);
  void add_norm(int member, const AddNormOp& op);
  void rotate_and_append(int member, const AttentionOp& op);
  void attend(const AttentionOp& op);

  void prepare(const LinearsOp& op, const Compiled& compiled, int64_t rows, int64_t first, int64_t last,
               Room& room) const;
  Prepared take_prepared(const LinearsOp& op, const Compiled& compiled, int64_t rows, Room& room) const;
  const float* rows_of(const LinearsOp& op, const Room& room) const;
  void multiply(const LinearsOp& op, const Compiled& compiled, const Prepared& prepared, int64_t rows,
                int64_t first, int64_t last) const;
  void finish(const LinearsOp& op, int64_t rows, int64_t first, int64_t last) const;
  float* output_of(const LinearsOp& op, const Linear& linear) const;
  float* row(int buffer, int64_t token) const {
    return buffers_[static_cast<size_t>(buffer)] + token * plan_.widths[static_cast<size_t>(buffer)];
  }

  const Plan& plan_;
  Cache& cache_;
  Team& team_;
  const KernelTable& table_;
  const bool int8_;
  std::vector<Compiled> compiled_;  // by op; empty for others than linears
  Pages buffer_pages_;
  std::vector<float*> buffers_;
  Pages angle_pages_;
  std::vector<float*> angles_;  // of each rotary: [tokens][2][half], cosine and sine
  Room shared_;
  std::vector<Room> private_;
  StepInput input_;
  std::vector<const Run*> run_of_;  // by row
  bool profile_on_ = false;
  std::vector<double> profile_;
};

}  // namespace gossamer
