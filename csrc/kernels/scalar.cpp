#include "kernels/simd_scalar.h"
// The vector operations must come first.
#include "kernels/instantiate.h"

namespace gossamer {
extern const KernelTable scalar_table;
const KernelTable scalar_table = make_table("scalar");
}  // namespace gossamer
