#include "kernels/simd_neon.h"
// The vector operations must come first.
#include "kernels/instantiate.h"

namespace gossamer {
extern const KernelTable neon_table;
const KernelTable neon_table = make_table("neon");
}  // namespace gossamer
