#include "kernels/dots_avxvnni.h"
// The vector operations must come first.
#include "kernels/instantiate.h"

namespace gossamer {
extern const KernelTable avxvnni_table;
const KernelTable avxvnni_table = make_table("avxvnni");
}  // namespace gossamer
