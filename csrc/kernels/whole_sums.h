// Sums over a fold for instruction sets that add products to 32 bits at once (dots_avx2.h does it otherwise).
// Included by simd_*.h, after dot_word.
#pragma once

namespace gossamer {
namespace {

constexpr int kNarrowestSums = 8;  // codes of all widths are summed in the same way

template <int bits> GOSSAMER_INLINE constexpr int first_sum(int start) { return start; }

template <int bits, int q, int quads, int word>
GOSSAMER_INLINE void add_products(I16& sum, I16&, B64 codes, const uint8_t* x) {
  sum = dot_word<(bits < 8)>(sum, codes, x + 4 * word);
}

}  // namespace
}  // namespace gossamer
