#pragma once

#include "engine/ops/op.h"

namespace gossamer {

// target = activation(first) * second, or activation(first) alone: the `gate` of LinearsOp, of products that took several
// ops to make. target may be first.
struct GateOp {
  Gate gate = Gate::silu;
  int first = 0, second = -1, target = 0;  // second: -1 if there is none
};

void admit(const GateOp& op, Plan& plan);
Work ready(const GateOp& op, StepContext& step);

}  // namespace gossamer
