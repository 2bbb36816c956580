// Products for matrices that are not packed: rows of float16, bfloat16 or float32.
#pragma once

#include "kernels/dense.h"
#include "kernels/elementwise.h"

namespace gossamer {
namespace {

template <Values kind> GOSSAMER_INLINE F16 load_values(const uint8_t* data, int64_t index) {
  if constexpr (kind == Values::float16) return load_half(reinterpret_cast<const uint16_t*>(data) + index);
  else if constexpr (kind == Values::bfloat16)
    return load_brain(reinterpret_cast<const uint16_t*>(data) + index);
  else return load_f(reinterpret_cast<const float*>(data) + index);
}

// Sixteen values of which `count` lie inside the row.
template <Values kind> GOSSAMER_INLINE F16 load_values_some(const uint8_t* data, int64_t index,
                                                            int64_t count) {
  if (count >= kLanes) return load_values<kind>(data, index);
  uint8_t bytes[64] = {};
  const size_t width = kind == Values::float32 ? 4 : 2;
  std::memcpy(bytes, data + static_cast<size_t>(index) * width, static_cast<size_t>(count) * width);
  return load_values<kind>(bytes, 0);
}

// Sixteen values, of which those beyond the row are multiplied by the zeros of padded activations: the rows after this
// one serve, and only at the end of the matrix must the values be counted.
template <Values kind> GOSSAMER_INLINE F16 load_values_padded(const DenseView& m, int64_t row,
                                                              int64_t column) {
  const int64_t at = row * m.columns + column;
  return at + kLanes <= m.rows * m.columns ? load_values<kind>(m.data, at)
                                           : load_values_some<kind>(m.data, at, m.columns - column);
}

// Four rows at once: four streams keep the memory busy, and x is loaded once for them.
template <Values kind, int count>
GOSSAMER_INLINE void row_products(const DenseView& m, const float* x, float* y, int64_t row) {
  constexpr int64_t ahead = 1024;
  F16 acc[count][2];
  unroll<count>([&](auto r) GOSSAMER_LAMBDA { acc[r][0] = acc[r][1] = zero_f(); });
  int64_t column = 0;
  for (; column + 32 <= m.columns; column += 32) {
    const F16 x0 = load_f(x + column), x1 = load_f(x + column + 16);
    unroll<count>([&](auto r) GOSSAMER_LAMBDA {
      const int64_t at = (row + r) * m.columns + column;
      prefetch<1>(m.data + at * (kind == Values::float32 ? 4 : 2), ahead);
      acc[r][0] = fma_f(load_values<kind>(m.data, at), x0, acc[r][0]);
      acc[r][1] = fma_f(load_values<kind>(m.data, at + 16), x1, acc[r][1]);
    });
  }
  for (; column < m.columns; column += kLanes)
    unroll<count>([&](auto r) GOSSAMER_LAMBDA {
      acc[r][0] = fma_f(load_values_padded<kind>(m, row + r, column), load_f(x + column), acc[r][0]);
    });
  unroll<count>([&](auto r) GOSSAMER_LAMBDA { y[row + r] = reduce_add_f(add_f(acc[r][0], acc[r][1])); });
}

template <Values kind>
void fill_rows(const DenseView& m, int64_t strip, int64_t column, int64_t columns, FloatPanel& panel) {
  const int64_t rows = smaller(kStripRows, m.rows - strip * kStripRows);
  for (int64_t r = 0; r < kStripRows; ++r)
    for (int64_t k = 0; k < columns; k += kLanes) {
      float lanes[kLanes] = {};
      const int64_t left = m.columns - column - k;
      if (r < rows && left > 0)
        store_f(lanes,
                load_values_some<kind>(m.data, (strip * kStripRows + r) * m.columns + column + k, left));
      for (int64_t i = 0; i < kLanes; ++i) panel.weights[k + i][r] = lanes[i];
    }
}

template <Values kind>
void row_major(const DenseView& m, const Activations& act, float* y, int64_t first, int64_t last) {
  if (act.tokens == 1) {
    const int64_t end = smaller(last * kStripRows, m.rows);
    int64_t row = first * kStripRows;
    for (; row + 4 <= end; row += 4) row_products<kind, 4>(m, act.x, y, row);
    for (; row < end; ++row) row_products<kind, 1>(m, act.x, y, row);
    return;
  }
  FloatPanel panel;
  const Sweep sweep{m, act, y};
  const int64_t width = (m.columns + kLanes - 1) / kLanes * kLanes;  // narrow factors are not padded to 64
  for (int64_t t = 0; t < act.tokens; t += Sweep::kTokens)
    for (int64_t column = 0; column < width; column += FloatPanel::kColumns)
      for (int64_t strip = first; strip < last; ++strip) {
        const int64_t columns = smaller(FloatPanel::kColumns, width - column);
        fill_rows<kind>(m, strip, column, columns, panel);
        sweep(panel, strip, column, columns, t, smaller(t + Sweep::kTokens, act.tokens));
      }
}

void run_row_major(const DenseView& m, const Activations& act, float* y, int64_t first, int64_t last) {
  switch (m.kind) {
    case Values::float16: return row_major<Values::float16>(m, act, y, first, last);
    case Values::bfloat16: return row_major<Values::bfloat16>(m, act, y, first, last);
    default: return row_major<Values::float32>(m, act, y, first, last);
  }
}

}  // namespace
}  // namespace gossamer
