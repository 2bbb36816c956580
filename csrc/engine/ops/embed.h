#pragma once

#include "engine/ops/op.h"

namespace gossamer {

// hidden = scale * table[id] (+ positions[position]). Also writes the angles of all rotaries for the rows of the step.
struct EmbedOp {
  MatrixView table;
  float scale = 1;
  bool has_positions = false;
  MatrixView positions;
};

void admit(const EmbedOp& op, Plan& plan);
Work ready(const EmbedOp& op, StepContext& step);

}  // namespace gossamer
