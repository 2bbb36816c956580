#include "engine/ops/embed.h"

#include <cmath>

#include "engine/context.h"
#include "formats/validate.h"

namespace gossamer {

void admit(const EmbedOp& op, Plan& plan) {
  if (!plan.ops.empty()) refuse("embedding", "at the beginning", "after other ops");
  expect_table("embedding", op.table);
  expect_finite("embedding: scale", op.scale);
  plan.expect_width("embedding", 0, shape_of(op.table).columns);
  plan.vocabulary = shape_of(op.table).rows;
  if (!op.has_positions) return;
  expect_table("positions", op.positions);
  plan.expect_width("positions", 0, shape_of(op.positions).columns);
  if (plan.max_positions > shape_of(op.positions).rows)
    refuse("positions", std::to_string(plan.max_positions) + " rows or more",
           std::to_string(shape_of(op.positions).rows));
}

namespace {

void write_angles(const Rotary& rotary, int64_t position, float* cosine) {
  const size_t half = rotary.inverse_frequency.size();
  for (size_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * rotary.inverse_frequency[i];
    cosine[i] = std::cos(angle) * rotary.scaling;
    cosine[half + i] = std::sin(angle) * rotary.scaling;
  }
}

void embed(const EmbedOp& op, const StepContext& step, int64_t t, float* scratch) {
  const int64_t width = step.plan.width(0), position = step.position(t);
  float* x = step.row(0, t);
  read_row(op.table, step.input.ids[t], x);
  if (op.scale != 1)
    for (int64_t i = 0; i < width; ++i) x[i] *= op.scale;
  if (op.has_positions) {
    read_row(op.positions, position, scratch);
    step.table.add(scratch, width, x);
  }
  for (size_t r = 0; r < step.plan.rotaries.size(); ++r)
    write_angles(step.plan.rotaries[r], position, step.angles(static_cast<int>(r), t));
}

}  // namespace

Work ready(const EmbedOp& op, StepContext& step) {
  if (op.has_positions) step.want_own(padded(step.plan.width(0)) * 4);
  return [&op, &step](int member) {
    for (int64_t t = member; t < step.input.tokens; t += step.team.size())
      embed(op, step, t, step.own<float>(member));
  };
}

}  // namespace gossamer
