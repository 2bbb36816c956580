// What this machine can run: instruction set levels and the number of threads we may use.
#pragma once

namespace gossamer {

enum class Isa { scalar = 0, avx2 = 1, avx512 = 2, amx = 3 };

// The highest level that both the CPU (cpuid) and the operating system (xgetbv) support.
Isa detect_isa();

// Whether the machine lends this process tiles (AMX-INT8); asks the operating system for them.
bool tiles_lent();

// Whether products may use tiles: where they are lent. Tests put csrc/tests/amx_emulator.cpp in its place.
bool tiles_usable();

// min(CPUs in the affinity mask, cgroup CPU quota rounded up), at least 1; GOSSAMER_NUM_THREADS overrides it.
// Throws std::invalid_argument if GOSSAMER_NUM_THREADS is not a number from 1 to 1024.
int default_num_threads();

}  // namespace gossamer
