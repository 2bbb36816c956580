// A matrix in any of the formats that have a kernel.
#pragma once

#include <variant>

#include "formats/views.h"

namespace gossamer {

using MatrixView = std::variant<IntegerView, BitmaskView, NMView, DenseView>;

inline const Shape& shape_of(const MatrixView& matrix) {
  return std::visit([](const auto& view) -> const Shape& { return view; }, matrix);
}

// Bytes of weights in the strips [0, strip).
int64_t bytes_before(const MatrixView& matrix, int64_t strip);

// Writes row `row` of an integer or dense matrix to out[columns]. Requires 0 <= row < rows.
void read_row(const MatrixView& matrix, int64_t row, float* out);

}  // namespace gossamer
