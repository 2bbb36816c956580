#include "kernels/dots_avx2.h"
// The vector operations must come first.
#include "kernels/instantiate.h"

namespace gossamer {
extern const KernelTable avx2_table;
const KernelTable avx2_table = make_table("avx2");
}  // namespace gossamer
