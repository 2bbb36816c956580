#include "kernels/table.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace gossamer {

extern const KernelTable scalar_table;
#if defined(GOSSAMER_X86_64)
extern const KernelTable avx2_table, avx512_table;
#endif

namespace {

const KernelTable& table_of(Isa isa) {
#if defined(GOSSAMER_X86_64)
  if (isa == Isa::avx512) return avx512_table;
  if (isa == Isa::avx2) return avx2_table;
#endif
  (void)isa;
  return scalar_table;
}

Isa parse_isa(const std::string& name, const std::string& where) {
  const Isa best = detect_isa();
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (name != isa_name(isa)) continue;
    if (isa > best)
      throw std::invalid_argument(where + ": this machine has no " + name + ", its best level is " + isa_name(best));
    return isa;
  }
  throw std::invalid_argument(where + ": expected scalar, avx2 or avx512, got '" + name + "'");
}

Isa first_choice() {
  if (const char* name = std::getenv("GOSSAMER_ISA"); name && *name) return parse_isa(name, "GOSSAMER_ISA");
  return detect_isa();
}

std::atomic<int> active{-1};

}  // namespace

const char* isa_name(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "scalar";
}

Isa active_isa() {
  int isa = active.load(std::memory_order_relaxed);
  if (isa < 0) active.store(isa = static_cast<int>(first_choice()));
  return static_cast<Isa>(isa);
}

const KernelTable& active_table() { return table_of(active_isa()); }

void set_isa(const char* name) { active.store(static_cast<int>(parse_isa(name, "set_isa"))); }

}  // namespace gossamer
