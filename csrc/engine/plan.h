// A model as a flat list of ops over numbered buffers. Checked op by op as it is built, so that running it needs no checks.
//
// A buffer holds one row of floats for each token of a step. Buffer 0 is the hidden state.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "formats/matrix.h"
#include "kernels/table.h"

namespace gossamer {

// hidden = scale * table[id] (+ positions[position]).
struct EmbedOp {
  MatrixView table;
  float scale = 1;
  bool has_positions = false;
  MatrixView positions;
};

struct Linear {
  MatrixView weight;
  const float* bias = nullptr;
  int output = 0;  // buffer
};

enum class Then {
  store,  // outputs keep the products
  add,    // target += the one product
  gate    // target = activation(first) * second, or activation(first) alone
};

constexpr size_t kMaxLinears = 8;  // products of one input

// output = weight * norm(input) + bias for each linear, then what `then` says with all of it.
struct LinearsOp {
  int input = 0;
  bool has_norm = false;
  RowNorm norm;
  std::vector<Linear> linears;
  Then then = Then::store;
  Gate gate = Gate::silu;
  int target = 0;
  bool head = false;  // runs for the rows whose logits are wanted, and writes there
};

// target = activation(first) * second, or activation(first) alone: the `gate` of LinearsOp, of products that took several
// ops to make. target may be first.
struct GateOp {
  Gate gate = Gate::silu;
  int first = 0, second = -1, target = 0;  // second: -1 if there is none
};

// target += norm(input).
struct AddNormOp {
  int input = 0, target = 0;
  RowNorm norm;
};

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

  // All throw std::invalid_argument with what was expected and got.
  int add_buffer(int64_t width);
  int add_rotary(Rotary rotary);
  void add(EmbedOp op);
  void add(LinearsOp op);
  void add(GateOp op);
  void add(AddNormOp op);
  void add(AttentionOp op);
  int64_t weight_bytes() const;  // read for one token: all linears, and one row of each table
  void check_complete() const;   // begins with an embedding, ends with a head

 private:
  int64_t width_of(const char* what, int buffer) const;
  void expect_width(const char* what, int buffer, int64_t width) const;
};

}  // namespace gossamer
