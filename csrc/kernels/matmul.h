// y[t, o] = sum over i of w[o, i] * x[t, i], for packed w.
//
// Requires: a validated view; x [tokens, columns] and y [tokens, rows], contiguous float32, not overlapping; tokens >= 1.
// int8: activations are quantized as kernels/quantize.h says; float-valued weights ignore it and stay in float32.
// The result does not depend on the number of threads.
#pragma once

#include "formats/matrix.h"

namespace gossamer {

void matmul(const MatrixView& w, const float* x, int64_t tokens, float* y, bool int8);

}  // namespace gossamer
