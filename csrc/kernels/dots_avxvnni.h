// Sums of products with AVX-VNNI: vpdpbusd multiplies unsigned by signed bytes and adds four products to 32 bits, exactly.
#pragma once

#include "kernels/simd_avx2.h"

namespace gossamer {
namespace {

// acc[r] += sum over j of u[4r+j] * s[4r+j]; u unsigned, s signed. In assembly: gcc 12 copies accumulators otherwise.
GOSSAMER_INLINE I16 dot(I16 acc, B64 u, B64 s) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc.a) : "x"(u.a), "x"(s.a));
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc.b) : "x"(u.b), "x"(s.b));
  return acc;
}
GOSSAMER_INLINE I16 dot_small(I16 acc, B64 u, B64 s) { return dot(acc, u, s); }
template <bool small> GOSSAMER_INLINE I16 dot_word(I16 acc, B64 u, const uint8_t* p) {
  return dot(acc, u, broadcast4(p));
}

}  // namespace
}  // namespace gossamer

#include "kernels/long_sums.h"
#include "kernels/whole_sums.h"
