#pragma once

#include "engine/ops/op.h"

namespace gossamer {

struct HeadPart {
  int buffer = 0;
  int64_t offset = 0;  // of head 0 in a row
};

// Norms of query and key heads, rotation by position, and attention over the cache of `layer`.
struct AttentionOp {
  HeadPart query, key, value;
  int output = 0;
  int heads = 0, key_heads = 0, head_dim = 0, layer = 0;
  float scale = 1;
  int64_t window = 0;  // positions that a token sees, itself included; 0: all
  int rotary = -1;     // number of the table of angles; -1: none
  bool has_norms = false;
  RowNorm query_norm, key_norm;
};

void admit(const AttentionOp& op, Plan& plan);
Work ready(const AttentionOp& op, StepContext& step);

}  // namespace gossamer
