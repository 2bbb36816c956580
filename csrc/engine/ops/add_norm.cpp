#include "engine/ops/add_norm.h"

#include "engine/context.h"
#include "formats/validate.h"

namespace gossamer {

void admit(const AddNormOp& op, Plan& plan) {
  plan.expect_inside("norm");
  expect_norm("norm", op.norm);
  plan.expect_width("norm", op.target, plan.width_of("norm", op.input));
  if (op.input == op.target) refuse("norm: target", "another buffer than the input", "the same");
}

Work ready(const AddNormOp& op, StepContext& step) {
  const int64_t width = step.plan.width(op.input);
  step.want_own(padded(width) * 4);
  return [&op, &step, width](int member) {
    float* normed = step.own<float>(member);
    for (int64_t t = member; t < step.input.tokens; t += step.team.size()) {
      step.table.norm(op.norm, step.row(op.input, t), width, normed);
      step.table.add(normed, width, step.row(op.target, t));
    }
  };
}

}  // namespace gossamer
