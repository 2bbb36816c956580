// Packed -> w[rows, columns] in float32: slow and plain, the kernels' own reference.
#pragma once

#include "formats/views.h"

namespace gossamer {

void unpack(const IntegerView& m, float* w);
void unpack(const BitmaskView& m, float* w);
void unpack(const NMView& m, float* w);
void unpack(const DenseView& m, float* w);

// One row: out[columns]. What an embedding looks up.
void unpack_row(const IntegerView& m, int64_t row, float* out);
void unpack_row(const DenseView& m, int64_t row, float* out);

}  // namespace gossamer
