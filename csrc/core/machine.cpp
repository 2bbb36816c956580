#include "core/machine.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(GOSSAMER_X86_64)
#include <cpuid.h>
#endif
#if defined(GOSSAMER_AARCH64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace gossamer {

#if defined(GOSSAMER_X86_64)
namespace {

// Which register states the operating system saves: without this, a CPU flag alone may end in SIGILL.
uint64_t enabled_states() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

bool has(uint32_t word, int bit) { return (word >> bit) & 1; }

// The 256-bit form of VNNI that needs no AVX-512.
bool has_avx_vnni() {
#if defined(GOSSAMER_AVXVNNI)
  uint32_t a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && has(a, 4);
#else
  return false;
#endif
}

}  // namespace

std::vector<Isa> usable_isas() {
  std::vector<Isa> isas{Isa::scalar};
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return isas;
  const bool xsave = has(c, 27), fma = has(c, 12), f16c = has(c, 29), popcnt = has(c, 23);
  if (!(xsave && fma && f16c && popcnt)) return isas;
  const uint64_t states = enabled_states();
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return isas;
  const bool avx2 = has(b, 5) && has(b, 3) && has(b, 8);  // avx2, bmi1, bmi2
  if (!avx2 || (states & 0x06) != 0x06) return isas;
  isas.push_back(Isa::avx2);
  if (has_avx_vnni()) isas.push_back(Isa::avxvnni);
  const bool foundation = has(b, 16) && has(b, 17) && has(b, 30) && has(b, 31);  // f, dq, bw, vl
  const bool extensions = has(c, 1) && has(c, 6) && has(c, 11);                  // vbmi, vbmi2, vnni
  if (!foundation || !extensions || (states & 0xE6) != 0xE6) return isas;
  isas.push_back(Isa::avx512);
  if (tiles_usable()) isas.push_back(Isa::amx);
  return isas;
}
#elif defined(GOSSAMER_AARCH64)
std::vector<Isa> usable_isas() {
#if defined(__ARM_FEATURE_DOTPROD)  // what the compiler takes for granted, as on Apple's CPUs
  return {Isa::scalar, Isa::neon};
#elif defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) return {Isa::scalar, Isa::neon};
#endif
  return {Isa::scalar};
}
#else
std::vector<Isa> usable_isas() { return {Isa::scalar}; }
#endif

namespace {

int affinity_count() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int round_up(double quota, double period, int otherwise) {
  if (quota <= 0 || period <= 0) return otherwise;
  return std::max(1, static_cast<int>((quota + period - 1) / period));
}

// A container may see all CPUs and still be throttled to a few: more threads than the quota only wait for each other.
int cgroup_count(int otherwise) {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period)
    return quota == "max" ? otherwise : round_up(std::atof(quota.c_str()), period, otherwise);
  std::ifstream v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
      v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double quota_us = 0;
  if (v1_quota >> quota_us && v1_period >> period) return round_up(quota_us, period, otherwise);
  return otherwise;
}

}  // namespace

int default_num_threads() {
  if (const char* text = std::getenv("GOSSAMER_NUM_THREADS"); text && *text) {
    char* end = nullptr;
    const long count = std::strtol(text, &end, 10);
    if (*end != '\0' || count < 1 || count > 1024)
      throw std::invalid_argument(
          std::string("GOSSAMER_NUM_THREADS: expected a number from 1 to 1024, got '") + text + "'");
    return static_cast<int>(count);
  }
  const int cpus = affinity_count();
  return std::min(cpus, cgroup_count(cpus));
}

}  // namespace gossamer
