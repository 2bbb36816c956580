#include "engine/ops/gate.h"

#include <algorithm>

#include "engine/context.h"
#include "formats/validate.h"

namespace gossamer {

void admit(const GateOp& op, Plan& plan) {
  plan.expect_inside("gate");
  const int64_t width = plan.width_of("gate: first", op.first);
  if (op.second != -1) plan.expect_width("gate: second", op.second, width);
  plan.expect_width("gate: target", op.target, width);
  if (op.target == op.second) refuse("gate: target", "another buffer than the second input", "the same");
}

// Each member takes a run of columns of all rows.
Work ready(const GateOp& op, StepContext& step) {
  const int64_t width = step.plan.width(op.target), pieces = (width + 15) / 16, members = step.team.size();
  return [&op, &step, width, pieces, members](int member) {
    const int64_t from = pieces * member / members * 16;
    const int64_t count = std::min(pieces * (member + 1) / members * 16, width) - from;
    for (int64_t t = 0; t < step.input.tokens && count > 0; ++t) {
      const float* second = op.second < 0 ? nullptr : step.row(op.second, t) + from;
      step.table.gate(op.gate, step.row(op.first, t) + from, second, count, step.row(op.target, t) + from);
    }
  };
}

}  // namespace gossamer
