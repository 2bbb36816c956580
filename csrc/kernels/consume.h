// What the consumers share: scales of a strip, rows of y, blocks of tokens.
#pragma once

#include "kernels/table.h"
#include "kernels/unroll.h"

namespace gossamer {
namespace {

GOSSAMER_INLINE constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

struct Scales {
  const uint16_t* scale;
  const uint16_t* minimum;
  int64_t groups, group_columns;

  GOSSAMER_INLINE Scales(const Shape& m, int64_t strip)
      : scale(m.scale + strip * m.groups * kStripRows),
        minimum(m.minimum ? m.minimum + strip * m.groups * kStripRows : nullptr),
        groups(m.groups),
        group_columns(m.group_columns()) {}

  // Columns of padding belong to the last group; their activations are zero.
  GOSSAMER_INLINE int64_t group_of(int64_t column) const {
    return smaller(column / group_columns, groups - 1);
  }
  GOSSAMER_INLINE F16 of(int64_t group, float unit) const {
    const F16 s = load_half(scale + group * kStripRows);
    return unit == 1.0f ? s : mul_f(s, set1_f(unit));
  }
  // w = scale * (value + zero) + minimum = scale * value + offset.
  GOSSAMER_INLINE F16 offset(int64_t group, int zero) const {
    return fma_f(of(group, 1.0f), set1_f(static_cast<float>(zero)), load_half(minimum + group * kStripRows));
  }
};

// The last strip may have fewer than 16 rows inside the matrix.
struct Rows {
  float* y;
  int64_t stride;
  int count;

  GOSSAMER_INLINE Rows(const Shape& m, float* y_TO, int64_t strip)
      : y(y_TO + strip * kStripRows),
        stride(m.rows),
        count(static_cast<int>(smaller(kStripRows, m.rows - strip * kStripRows))) {}

  GOSSAMER_INLINE void store(int64_t token, F16 v) const {
    if (count == kStripRows) store_f(y + token * stride, v);
    else store_few(token, v);
  }
  GOSSAMER_INLINE F16 load(int64_t token) const {
    return count == kStripRows ? load_f(y + token * stride) : load_few(token);
  }

 private:
  __attribute__((noinline)) void store_few(int64_t token, const F16& v) const {
    float rows[kStripRows];
    store_f(rows, v);
    for (int r = 0; r < count; ++r) y[token * stride + r] = rows[r];
  }
  __attribute__((noinline)) F16 load_few(int64_t token) const {
    float rows[kStripRows] = {};
    for (int r = 0; r < count; ++r) rows[r] = y[token * stride + r];
    return load_f(rows);
  }
};

// Calls f(Const<size>, first token) for the blocks of tokens [first, last); first must begin a block.
template <class F> GOSSAMER_INLINE void for_blocks(int64_t first, int64_t last, int64_t total, const F& f) {
  for (int64_t t = first; t < last;) {
    const int size = block_tokens(total - t, kLargestBlock);
    if constexpr (kLargestBlock >= 12) {
      if (size == 12) f(Const<12>{}, t);
      if (size == 8) f(Const<8>{}, t);
    }
    if (size == 4) f(Const<4>{}, t);
    if (size == 2) f(Const<2>{}, t);
    if (size == 1) f(Const<1>{}, t);
    t += size;
  }
}

}  // namespace
}  // namespace gossamer
