// What this machine can run: instruction set levels and the number of threads we may use.
#pragma once

#include <vector>

namespace gossamer {

enum class Isa { scalar, avx2, avxvnni, avx512, amx, neon };

// The levels that both the CPU and the operating system support, slowest first; scalar is always among them.
std::vector<Isa> usable_isas();

// Whether the machine lends this process tiles (AMX-INT8); asks the operating system for them.
bool tiles_lent();

// Whether products may use tiles: where they are lent. Tests put csrc/tests/amx_emulator.cpp in its place.
bool tiles_usable();

// min(CPUs in the affinity mask, cgroup CPU quota rounded up), at least 1; GOSSAMER_NUM_THREADS overrides it.
// Throws std::invalid_argument if GOSSAMER_NUM_THREADS is not a number from 1 to 1024.
int default_num_threads();

}  // namespace gossamer
