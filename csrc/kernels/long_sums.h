// Short sums for instruction sets that add products to 32 bits at once (dots_avx2.h has others). Included by simd_*.h.
#pragma once

namespace gossamer {
namespace {

// acc + u * s, of at most eight products with nibbles in a lane; add_nibbles sums the nibbles themselves; short_sums() gives
// the sums of rows, less the excess of activations that are stored as code + 128.
GOSSAMER_INLINE I16 dot_short(I16 acc, B64 u, B64 s) { return dot(acc, u, s); }
GOSSAMER_INLINE I16 add_nibbles(I16 sums, B64 s) { return dot(sums, set1_b(1), s); }
GOSSAMER_INLINE I16 nibble_excess(I16 sums) { return left_i<7>(sums); }
GOSSAMER_INLINE I16 short_sums(I16 acc, I16 excess) { return sub_i(acc, excess); }

}  // namespace
}  // namespace gossamer
