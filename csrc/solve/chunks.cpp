#include "solve/chunks.h"

#include <algorithm>

#include "core/thread_pool.h"

// One compilation for each width of vectors, chosen by the loader.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define GOSSAMER_CLONES __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define GOSSAMER_CLONES
#endif

namespace gossamer {
namespace {

constexpr int64_t kRows = 64;           // of the matrix, that are worked on together
constexpr float kRounds = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer, ties to even

inline float nearest(float value, float lowest, float highest) {
  const float within = std::min(std::max(value, lowest), highest);
  return (within + kRounds) - kRounds;
}

// The grids of rows of one group.
struct Slice { const float *scale, *minimum; };

inline Slice slice_of(const RowGrids& grids, int64_t group, int64_t row) {
  const int64_t at = group * grids.num_outputs + row;
  return {grids.scale_GO + at, grids.minimum_GO + at};
}

inline void round_to(const Slice& s, const float* wanted, float* code, float* value, float lowest,
                     float highest, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    const float divisor = s.scale[r] == 0.0f ? 1.0f : s.scale[r];
    code[r] = nearest((wanted[r] - s.minimum[r]) / divisor, lowest, highest);
    value[r] = code[r] * s.scale[r] + s.minimum[r];
  }
}

inline void drop(const RowGrids& grids, int64_t input, int64_t row, float* value, int64_t rows) {
  if (grids.kept_IO == nullptr) return;
  const float* const kept = grids.kept_IO + input * grids.num_outputs + row;
  for (int64_t r = 0; r < rows; ++r) value[r] *= kept[r];
}

inline void fix_rows_in_place(const FeedbackChunk& c, int64_t row, int64_t rows) {
  const int64_t outputs = c.grids.num_outputs;
  const float lowest = c.grids.lowest, highest = c.grids.highest;
  for (int64_t a = 0; a < c.count; ++a) {
    const int64_t input = c.first + a;
    float* const weight = c.weight_CO + a * outputs + row;
    float* const error = c.error_CO + a * outputs + row;
    float value[kRows];
    std::copy_n(weight, rows, value);
    if (c.grids.scale_GO != nullptr) {
      const Slice s = slice_of(c.grids, c.group_I[input], row);
      round_to(s, value, c.code_IO + input * outputs + row, value, lowest, highest, rows);
    }
    drop(c.grids, input, row, value, rows);
    const float inverse = 1.0f / c.upper[a * c.stride + a];
    for (int64_t r = 0; r < rows; ++r) {
      error[r] = (weight[r] - value[r]) * inverse;
      weight[r] = value[r];
    }
    for (int64_t b = a + 1; b < c.count; ++b) {
      const float share = c.upper[a * c.stride + b];
      float* const later = c.weight_CO + b * outputs + row;
      for (int64_t r = 0; r < rows; ++r) later[r] -= share * error[r];
    }
  }
}

inline void descend_rows_in_place(const DescentChunk& c, int64_t row, int64_t rows) {
  const int64_t outputs = c.grids.num_outputs;
  const float lowest = c.grids.lowest, highest = c.grids.highest;
  for (int64_t a = 0; a < c.count; ++a) {
    const int64_t input = c.first + a, at = input * outputs + row;
    float slope[kRows], best[kRows], value[kRows];
    std::copy_n(c.slope_IO + at, rows, slope);
    for (int64_t b = 0; b < a; ++b) {
      const float share = c.hessian[a * c.stride + b];
      const float* const change = c.change_CO + b * outputs + row;
      for (int64_t r = 0; r < rows; ++r) slope[r] += share * change[r];
    }
    const float inverse = 1.0f / c.hessian[a * c.stride + a];
    const float* const weight = c.weight_IO + at;
    for (int64_t r = 0; r < rows; ++r) best[r] = weight[r] - inverse * slope[r];
    const Slice s = slice_of(c.grids, input / c.group_size, row);
    round_to(s, best, c.code_IO + at, value, lowest, highest, rows);
    drop(c.grids, input, row, value, rows);
    float* const change = c.change_CO + a * outputs + row;
    for (int64_t r = 0; r < rows; ++r) change[r] = value[r] - weight[r];
  }
}

GOSSAMER_CLONES void fix_rows(const FeedbackChunk& chunk, int64_t row, int64_t rows) {
  fix_rows_in_place(chunk, row, rows);
}

GOSSAMER_CLONES void descend_rows(const DescentChunk& chunk, int64_t row, int64_t rows) {
  descend_rows_in_place(chunk, row, rows);
}

template <class Work>
void by_rows(int64_t num_outputs, const Work& work) {
  parallel_for((num_outputs + kRows - 1) / kRows, [&](int64_t task) {
    const int64_t row = task * kRows;
    work(row, std::min(kRows, num_outputs - row));
  });
}

}  // namespace

void fix_chunk(const FeedbackChunk& chunk) {
  by_rows(chunk.grids.num_outputs, [&](int64_t row, int64_t rows) { fix_rows(chunk, row, rows); });
}

void descend_chunk(const DescentChunk& chunk) {
  by_rows(chunk.grids.num_outputs, [&](int64_t row, int64_t rows) { descend_rows(chunk, row, rows); });
}

}  // namespace gossamer
