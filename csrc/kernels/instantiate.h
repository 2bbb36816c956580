// The entry points of one instruction set. Include after its simd_*.h.
#pragma once

#include "kernels/attention.h"
#include "kernels/dense.h"
#include "kernels/elementwise.h"
#include "kernels/nm.h"
#include "kernels/nm_narrow.h"
#include "kernels/quantize.h"
#include "kernels/row_major.h"

namespace gossamer {
namespace {

void run_integer(const IntegerView& m, const Activations& act, bool int8, float* y, int64_t first,
                 int64_t last) {
  switch (m.bits) {
    case 2: return matmul_dense(IntegerDecoder<2>(m), act, int8, y, first, last);
    case 3: return matmul_dense(IntegerDecoder<3>(m), act, int8, y, first, last);
    case 4: return matmul_dense(IntegerDecoder<4>(m), act, int8, y, first, last);
    case 5: return matmul_dense(IntegerDecoder<5>(m), act, int8, y, first, last);
    case 6: return matmul_dense(IntegerDecoder<6>(m), act, int8, y, first, last);
    case 7: return matmul_dense(IntegerDecoder<7>(m), act, int8, y, first, last);
    default: return matmul_dense(IntegerDecoder<8>(m), act, int8, y, first, last);
  }
}

void run_bitmask(const BitmaskView& m, const Activations& act, bool int8, float* y, int64_t first,
                 int64_t last) {
  switch (m.kind) {
    case Values::nibble: return matmul_dense(BitmaskDecoder<Values::nibble>(m), act, int8, y, first, last);
    case Values::int8: return matmul_dense(BitmaskDecoder<Values::int8>(m), act, int8, y, first, last);
    case Values::float16: return matmul_dense(BitmaskDecoder<Values::float16>(m), act, int8, y, first, last);
    case Values::bfloat16:
      return matmul_dense(BitmaskDecoder<Values::bfloat16>(m), act, int8, y, first, last);
    case Values::float32: return matmul_dense(BitmaskDecoder<Values::float32>(m), act, int8, y, first, last);
  }
}

void run_nm(const NMView& m, const Activations& act, bool int8, float* y, int64_t first, int64_t last) {
  if (m.window == 4) return nm_narrow<4>(m, act, int8, y, first, last);
  if (m.window == 8) return nm_narrow<8>(m, act, int8, y, first, last);
  switch (m.kind) {
    case Values::nibble: return nm_planes<Values::nibble>(m, act, int8, y, first, last);
    case Values::int8: return nm_planes<Values::int8>(m, act, int8, y, first, last);
    case Values::float16: return nm_planes<Values::float16>(m, act, int8, y, first, last);
    case Values::bfloat16: return nm_planes<Values::bfloat16>(m, act, int8, y, first, last);
    case Values::float32: return;  // not a format: validation refuses it
  }
}

constexpr KernelTable make_table(const char* name) {
  return {name,     kLargestBlock, kSignedDot, quantize, run_integer, run_bitmask,  run_nm,     run_row_major,
          norm_row, gate_row,      add_row,    largest,  rotate_head, append_cache, attend_rows};
}

}  // namespace
}  // namespace gossamer
