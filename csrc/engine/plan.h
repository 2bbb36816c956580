// A model as a flat list of ops over numbered buffers. Checked op by op as it is built, so that running it needs no checks.
//
// A buffer holds one row of floats for each token of a step. Buffer 0 is the hidden state.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/ops/add_norm.h"
#include "engine/ops/attention.h"
#include "engine/ops/embed.h"
#include "engine/ops/gate.h"
#include "engine/ops/linears.h"

namespace gossamer {

using Op = std::variant<EmbedOp, LinearsOp, GateOp, AddNormOp, AttentionOp>;

struct Rotary {
  std::vector<float> inverse_frequency;  // [rotated dimensions / 2]
  float scaling = 1;                     // of cosine and sine
};

struct Plan {
  std::vector<int64_t> widths;  // of the buffers
  std::vector<Rotary> rotaries;
  std::vector<Op> ops;
  int64_t max_positions = 0;                    // tokens of a sequence
  int64_t vocabulary = 0;                       // set by the embedding
  int layers = 0, key_heads = 0, head_dim = 0;  // of the cache; set by the first attention
  int64_t outputs = 0;                          // logits of a token; set by the head

  // All that check throw std::invalid_argument with what was expected and got.
  int add_buffer(int64_t width);
  int add_rotary(Rotary rotary);
  template <class T> void add(T op) {
    admit(op, *this);
    ops.emplace_back(std::move(op));
  }
  int64_t weight_bytes() const;  // read for one token: all linears, and one row of each table
  void check_complete() const;   // begins with an embedding, ends with a head

  int64_t width(int buffer) const { return widths[static_cast<size_t>(buffer)]; }
  int64_t width_of(const char* what, int buffer) const;  // checked
  void expect_width(const char* what, int buffer, int64_t width) const;
  void expect_inside(const char* what) const;  // after the embedding, not after the head
};

}  // namespace gossamer
