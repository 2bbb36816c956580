#include "kernels/table.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/activations.h"

namespace gossamer {

extern const KernelTable scalar_table;
#if defined(GOSSAMER_X86_64)
extern const KernelTable avx2_table, avx512_table;
#endif
#if defined(GOSSAMER_AVXVNNI)
extern const KernelTable avxvnni_table;
#endif
#if defined(GOSSAMER_AARCH64)
extern const KernelTable neon_table;
#endif
#if defined(GOSSAMER_AMX)
extern const TileKernels amx_tiles;
#endif

namespace {

#if defined(GOSSAMER_AMX)
const KernelTable& amx_table() {
  static const KernelTable table = [] {
    KernelTable tiled = avx512_table;
    tiled.name = "amx", tiled.tiles = &amx_tiles;
    return tiled;
  }();
  return table;
}

// Tiles are used by themselves only where they give what AVX-512 gives, and sooner: CPUs and hypervisors differ.
bool tiles_pay() {
  constexpr int64_t kRows = 128, kColumns = 576, kTokens = 16, kTries = 20;
  std::vector<uint8_t> weights(kRows * kColumns);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<uint8_t>(i * 2654435761u >> 24);
  const std::vector<uint16_t> scales(kRows, 0x2400);  // 1/64
  std::vector<float> x(kTokens * kColumns);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int>(i * 40503 % 2001) - 1000);
  IntegerView view;
  view.rows = kRows, view.columns = view.group_size = kColumns, view.scale = scales.data();
  view.bits = 8, view.codes8 = weights.data();
  std::vector<float> y[2];
  double best[2] = {1e9, 1e9};
  for (int tiled = 0; tiled < 2; ++tiled) {
    const KernelTable& table = tiled ? amx_table() : avx512_table;
    const ActivationLayout layout = layout_for(table, view, kTokens, true);
    const ActivationRoom room(layout, kTokens);
    std::vector<uint8_t> bytes(static_cast<size_t>(room.bytes));
    const ActivationMemory memory = room.at(bytes.data());
    prepare_tokens(table, layout, x.data(), kTokens, 0, kTokens, memory);
    const Activations act = prepared(layout, x.data(), kTokens, memory);
    y[tiled].resize(kTokens * kRows);
    for (int64_t i = 0; i < kTries; ++i) {
      const auto start = std::chrono::steady_clock::now();
      multiply_strips(table, view, layout, act, y[tiled].data(), 0, view.strips());
      best[tiled] = std::min(best[tiled],
                             std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
  }
  return std::memcmp(y[0].data(), y[1].data(), y[0].size() * sizeof(float)) == 0 && best[1] < best[0];
}
#endif

const KernelTable& table_of(Isa isa) {
#if defined(GOSSAMER_AMX)
  if (isa == Isa::amx) return amx_table();
#endif
#if defined(GOSSAMER_X86_64)
  if (isa == Isa::avx512) return avx512_table;
  if (isa == Isa::avx2) return avx2_table;
#endif
#if defined(GOSSAMER_AVXVNNI)
  if (isa == Isa::avxvnni) return avxvnni_table;
#endif
#if defined(GOSSAMER_AARCH64)
  if (isa == Isa::neon) return neon_table;
#endif
  (void)isa;
  return scalar_table;
}

Isa parse_isa(const std::string& name, const std::string& where) {
  std::string names;
  for (Isa isa : usable_isas()) {
    if (name == isa_name(isa)) return isa;
    names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  throw std::invalid_argument(where + ": expected one that this machine has (" + names + "), got '" + name +
                              "'");
}

Isa first_choice() {
  if (const char* name = std::getenv("GOSSAMER_ISA"); name && *name) return parse_isa(name, "GOSSAMER_ISA");
  const Isa best = usable_isas().back();
#if defined(GOSSAMER_AMX)
  if (best == Isa::amx && !tiles_pay()) return Isa::avx512;
#endif
  return best;
}

std::atomic<int> active{-1};

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::scalar: return "scalar";
    case Isa::avx2: return "avx2";
    case Isa::avxvnni: return "avxvnni";
    case Isa::avx512: return "avx512";
    case Isa::amx: return "amx";
    case Isa::neon: return "neon";
  }
  return "";
}

Isa active_isa() {
  int isa = active.load(std::memory_order_relaxed);
  if (isa < 0) active.store(isa = static_cast<int>(first_choice()));
  return static_cast<Isa>(isa);
}

const KernelTable& active_table() { return table_of(active_isa()); }

void set_isa(const char* name) { active.store(static_cast<int>(parse_isa(name, "set_isa"))); }

}  // namespace gossamer
