#include "kernels/simd_avx512.h"
// The vector operations must come first.
#include "kernels/instantiate.h"

namespace gossamer {
extern const KernelTable avx512_table;
const KernelTable avx512_table = make_table("avx512");
}  // namespace gossamer
