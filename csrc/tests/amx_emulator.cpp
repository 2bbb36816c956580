// Tiles (AMX-INT8) in software, for machines that have none: an instruction that the CPU refuses (SIGILL) is decoded and
// done here, in every thread with a configuration and tiles of its own, none at first. Only the instructions of
// csrc/kernels/amx.cpp; what the hardware would refuse ends the process. Linked beside core/tiles.cpp, its tiles_usable()
// replaces the one there. Where the hardware has tiles they do the work: it does not refuse all of their instructions.
// Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, LDTILECFG, TILELOADD, TDPBSSD and others.
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "core/machine.h"

namespace gossamer {
namespace {

constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;

struct Config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(Config) == 64);

struct Tiles {
  Config config;
  uint8_t data[kTiles][kRows][kRowBytes];
};
thread_local Tiles tiles;

// write() and _exit() are all that a handler may do.
void require(bool holds, const char* what) {
  if (holds) return;
  constexpr char kBegin[] = "amx_emulator: ";
  if (write(2, kBegin, sizeof(kBegin) - 1) < 0 || write(2, what, std::strlen(what)) < 0 ||
      write(2, "\n", 1) < 0)
    _exit(3);
  _exit(2);
}

// ---- what the instructions do ----

void load_config(const uint8_t* from) {
  Config config;
  std::memcpy(&config, from, sizeof(config));
  std::memset(&tiles, 0, sizeof(tiles));
  if (config.palette == 0) return;
  require(config.palette == 1, "LDTILECFG: no such palette");
  for (uint8_t byte : config.reserved) require(byte == 0, "LDTILECFG: reserved bytes are not zero");
  for (int i = 0; i < 16; ++i) {
    require(i < kTiles || (config.rows[i] == 0 && config.row_bytes[i] == 0),
            "LDTILECFG: there are eight tiles");
    require(config.rows[i] <= kRows && config.row_bytes[i] <= kRowBytes, "LDTILECFG: a tile too large");
    require((config.rows[i] == 0) == (config.row_bytes[i] == 0),
            "LDTILECFG: rows without bytes, or bytes without rows");
  }
  tiles.config = config;
}

void check_tile(int tile) {
  require(tiles.config.palette == 1, "a tile before this thread was configured");
  require(tile < kTiles && tiles.config.rows[tile] != 0, "a tile that is not configured");
}

void zero(int tile) {
  check_tile(tile);
  std::memset(tiles.data[tile], 0, sizeof(tiles.data[tile]));
}

void load(int tile, const uint8_t* from, int64_t stride) {
  zero(tile);
  for (int r = 0; r < tiles.config.rows[tile]; ++r)
    std::memcpy(tiles.data[tile][r], from + r * stride, tiles.config.row_bytes[tile]);
}

void store(int tile, uint8_t* to, int64_t stride) {
  check_tile(tile);
  for (int r = 0; r < tiles.config.rows[tile]; ++r)
    std::memcpy(to + r * stride, tiles.data[tile][r], tiles.config.row_bytes[tile]);
}

void multiply(int sums, int left, int right) {
  for (int tile : {sums, left, right}) check_tile(tile);
  const Config& c = tiles.config;
  require(sums != left && sums != right && left != right, "TDPBSSD: the same tile twice");
  require(c.rows[sums] == c.rows[left] && c.row_bytes[sums] == c.row_bytes[right] &&
              c.row_bytes[left] == 4 * c.rows[right],
          "TDPBSSD: sizes do not fit");
  require(c.row_bytes[sums] % 4 == 0 && c.row_bytes[left] % 4 == 0, "TDPBSSD: rows of no whole words");
  for (int m = 0; m < c.rows[sums]; ++m)
    for (int n = 0; n < c.row_bytes[sums] / 4; ++n) {
      int32_t sum;
      std::memcpy(&sum, &tiles.data[sums][m][4 * n], 4);
      for (int k = 0; k < c.row_bytes[left] / 4; ++k)
        for (int i = 0; i < 4; ++i)
          sum += static_cast<int8_t>(tiles.data[left][m][4 * k + i]) *
                 static_cast<int8_t>(tiles.data[right][k][4 * n + i]);
      std::memcpy(&tiles.data[sums][m][4 * n], &sum, 4);
    }
}

// ---- what the bytes mean ----

constexpr int kRegister[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                               REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

struct Operand {
  uint8_t* address;
  int64_t stride;  // the scaled index: what tiles take for the distance of rows
  int length;      // of ModRM, SIB and displacement
};

Operand memory_operand(const uint8_t* modrm, bool x, bool b, const greg_t* registers) {
  const int mode = modrm[0] >> 6, rm = modrm[0] & 7;
  Operand result{nullptr, 0, 1};
  int64_t address = 0;
  int base = rm + 8 * b;
  bool has_base = true;
  if (rm == 4) {
    const int index = (modrm[1] >> 3 & 7) + 8 * x;
    base = (modrm[1] & 7) + 8 * b;
    if (index != 4) result.stride = registers[kRegister[index]] << (modrm[1] >> 6);
    result.length = 2;
  }
  if (mode == 0) {
    require(rm != 5, "an address relative to the instruction");
    has_base = base % 8 != 5;
  }
  if (has_base) address = registers[kRegister[base]];
  if (mode == 1) {
    address += static_cast<int8_t>(modrm[result.length]);
    result.length += 1;
  } else if (mode == 2 || !has_base) {
    int32_t displacement;
    std::memcpy(&displacement, modrm + result.length, 4);
    address += displacement;
    result.length += 4;
  }
  result.address = reinterpret_cast<uint8_t*>(address);
  return result;
}

// Returns the length of the instruction; 0 if it is none of ours.
int emulate(const uint8_t* code, const greg_t* registers) {
  // VEX with three bytes, map 0F38, 128 bits, W0.
  if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x84) != 0) return 0;
  const bool r = !(code[1] & 0x80), x = !(code[1] & 0x40), b = !(code[1] & 0x20);
  const int prefix = code[2] & 3, third = ~(code[2] >> 3) & 15, opcode = code[3];
  const uint8_t* modrm = code + 4;
  const bool is_register = modrm[0] >> 6 == 3;
  const int first = (modrm[0] >> 3 & 7) + 8 * r, second = (modrm[0] & 7) + 8 * b;
  enum { none, p66, pF3, pF2 };
  if (opcode == 0x5E && prefix == pF2 && is_register) return multiply(first, second, third), 5;
  if (opcode == 0x49 && prefix == pF2 && is_register && second == 0) return zero(first), 5;
  if (opcode == 0x49 && prefix == none && modrm[0] == 0xC0) return std::memset(&tiles, 0, sizeof(tiles)), 5;
  if (is_register || third != 0) return 0;
  const Operand operand = memory_operand(modrm, x, b, registers);
  if (opcode == 0x49 && prefix == none && first == 0) load_config(operand.address + operand.stride);
  else if (opcode == 0x4B && prefix == pF2 && (modrm[0] & 7) == 4)
    load(first, operand.address, operand.stride);
  else if (opcode == 0x4B && prefix == pF3 && (modrm[0] & 7) == 4)
    store(first, operand.address, operand.stride);
  else return 0;
  return 4 + operand.length;
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const int length = emulate(reinterpret_cast<const uint8_t*>(registers[REG_RIP]), registers);
  require(length != 0, "an illegal instruction that is none of tiles");
  registers[REG_RIP] += length;
}

}  // namespace

bool tiles_usable() {
  if (tiles_lent()) return true;
  struct sigaction action{};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGILL, &action, nullptr) == 0;
}

}  // namespace gossamer
