#include "core/machine.h"

#if defined(GOSSAMER_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace gossamer {

// Tiles need the CPU (cpuid), the operating system (xgetbv), and its leave: Linux gives a process the 8 KiB of tile data
// only when asked. Threads inherit it.
bool tiles_lent() {
#if defined(GOSSAMER_AMX)
  constexpr uint32_t kTile = 1u << 24, kInt8 = 1u << 25, kStates = 3u << 17;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  uint32_t a = 0, b = 0, c = 0, d = 0, low = 0, high = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTile) == 0 || (d & kInt8) == 0) return false;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kStates) == kStates && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

__attribute__((weak)) bool tiles_usable() { return tiles_lent(); }

}  // namespace gossamer
