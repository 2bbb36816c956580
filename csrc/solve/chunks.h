// The innermost loops of rounding weights one input after the other: a chunk of inputs, all rows.
//
// Arrays are float32 and contiguous; "IO" is [inputs, outputs], so that the weights of one input lie side by side. Rows of the
// matrix do not know each other: results do not depend on threads. gossamer/methods/solve has the same loops in plain torch.
#pragma once

#include <cstdint>

namespace gossamer {

constexpr int64_t kMostChunkInputs = 64;

// Code c of input i stands for minimum + scale * c, lowest <= c <= highest. A weight that is not kept becomes 0.
struct RowGrids {
  int64_t num_outputs = 0;
  const float* scale_GO = nullptr;  // null: kept weights are not rounded (feedback only)
  const float* minimum_GO = nullptr;
  const float* kept_IO = nullptr;  // 1 or 0; null when all are kept
  float lowest = 0, highest = 0;
};

// A chunk of GPTQ (arXiv 2210.17323, algorithm 1): the inputs [first, first + count) are rounded, and what that costs is taken
// off those after them in the chunk.
struct FeedbackChunk {
  RowGrids grids;
  int64_t first = 0, count = 0;
  const int64_t* group_I = nullptr;  // of every input
  const float* upper = nullptr;      // U[first + a, first + b] at upper[a * stride + b]
  int64_t stride = 0;
  float* weight_CO = nullptr;  // of the chunk; becomes the rounded weights
  float* code_IO = nullptr;
  float* error_CO = nullptr;  // (w - q) / U[i, i]
};
void fix_chunk(const FeedbackChunk& chunk);

// A chunk of coordinate descent (QuantEase, arXiv 2309.01885, algorithm 1): each input goes to the code nearest to its best
// value given all others.
struct DescentChunk {
  RowGrids grids;
  int64_t first = 0, count = 0, group_size = 0;
  const float* hessian = nullptr;  // H[first + a, first + b] at hessian[a * stride + b]
  int64_t stride = 0;
  const float* slope_IO = nullptr;  // of the loss, before the chunk
  const float* weight_IO = nullptr;
  float* code_IO = nullptr;
  float* change_CO = nullptr;  // by how much the weights of the chunk change
};
void descend_chunk(const DescentChunk& chunk);

}  // namespace gossamer
