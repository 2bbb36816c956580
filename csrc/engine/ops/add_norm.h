#pragma once

#include "engine/ops/op.h"

namespace gossamer {

// target += norm(input).
struct AddNormOp {
  int input = 0, target = 0;
  RowNorm norm;
};

void admit(const AddNormOp& op, Plan& plan);
Work ready(const AddNormOp& op, StepContext& step);

}  // namespace gossamer
