// The table of kernels of one instruction set, and the choice among them at run time.
#pragma once

#include <cstdint>

#include "core/inline.h"
#include "core/machine.h"
#include "formats/views.h"

namespace gossamer {

// Tokens are cut into blocks of 12, 8, 4, 2 or 1 (whatever fits in the registers of the instruction set). Inside a block
// the activations are stored [columns / granule][tokens of the block][granule], so that a kernel reads them in order.
// A block that begins at token t starts at element t * padded_columns (and t * folds for the per-fold arrays).
GOSSAMER_INLINE int block_tokens(int64_t remaining, int largest) {
  if (largest >= 12 && remaining >= 12) return 12;
  if (largest >= 8 && remaining >= 8) return 8;
  return remaining >= 4 ? 4 : remaining >= 2 ? 2 : 1;
}

// For tiles: blocks of 16 tokens and one of what remains, with granules of a whole fold, which has 64 columns.
constexpr int kTileTokens = 16, kTileColumns = 64;

struct Activations {
  int64_t tokens = 0;
  const float* x = nullptr;  // float activations; columns of padding are zero
  const float* group_sums =
      nullptr;  // [groups], sum of x over the columns of a group; one asymmetric token only
  // int8 activations: x is about scales * (codes - zero), zero = 128 when codes are unsigned.
  const uint8_t* codes = nullptr;
  const float* scales = nullptr;  // [fold][tokens of the block]
  // Where sums of products begin: -zero of the weights * sum of signed codes over a fold, same shape; not filled for unsigned ones.
  const int32_t* starts = nullptr;
  const float* sums = nullptr;  // scales * starts: what an offset of the weights multiplies, times -zero
  int fold_columns = 0;         // 32 or 64: columns summed in integers before a scale is applied
  bool windows = false;         // of 16 columns of a token, unsigned: for a kernel that shuffles them
};

struct QuantizePlan {
  int64_t columns = 0, padded_columns = 0;
  int tokens = 0;          // of this block
  int granule = 4;         // 4; 16 when unsigned; 64 for tiles
  int scale_columns = 64;  // columns that share a scale, 32 or 64
  int fold_columns = 64;   // divides scale_columns
  bool is_unsigned = false;
  int zero = 0;  // of the weights: their codes count from it
};

struct RowNorm {
  const float* weight = nullptr;  // [size]
  const float* bias = nullptr;    // [size]; layer norm only, may be null
  float epsilon = 0;
  bool centred = false;  // layer norm: the mean is taken away first
};

enum class Gate { silu, gelu_tanh, gelu, relu };

// Keys and values of one head in one block of kCacheTokens tokens. Cells are float16, or int8 with a scale per token:
//   keys [head_dim][tokens], values [tokens][head_dim], then for int8 float scales of keys and of values, [tokens] each.
constexpr int kCacheTokens = 32;
constexpr int kLargestHead = 256;
constexpr int kQueryRows = 24;

struct CacheShape {
  int head_dim = 0;
  bool int8 = false;
  GOSSAMER_INLINE int64_t cells() const { return int64_t{kCacheTokens} * head_dim; }
  GOSSAMER_INLINE int64_t bytes() const { return int8 ? 2 * cells() + 8 * kCacheTokens : 4 * cells(); }
};

// Up to kQueryRows queries of one sequence that share a head of keys and values.
struct AttentionRows {
  int rows = 0;
  const float* query[kQueryRows];
  float* out[kQueryRows];
  int64_t first[kQueryRows], last[kQueryRows];  // keys seen: positions [first, last), at least one
  float scale = 1;
  CacheShape shape;
  const uint8_t* base = nullptr;    // of this layer and head, in block 0
  int64_t block_bytes = 0;          // from block to block
  const int32_t* blocks = nullptr;  // numbers of the blocks of the sequence
  const uint8_t* next =
      nullptr;  // the keys that will be wanted after these, to be asked for early; may be null
};

// Products of int8 activations in the form for tiles (AMX), the same to the last bit as those of AVX-512.
struct TileKernels {
  void (*integer)(const IntegerView&, const Activations&, float* y, int64_t first, int64_t last);
  void (*bitmask)(const BitmaskView&, const Activations&, float* y, int64_t first, int64_t last);
  void (*nm)(const NMView&, const Activations&, float* y, int64_t first, int64_t last);
};

struct KernelTable {
  const char* name;
  int largest_block;
  bool signed_dot;  // int8 activations are signed in windows too
  // x: first token of the block, tokens are `columns` apart.
  void (*quantize)(const QuantizePlan&, const float* x, uint8_t* codes, float* scales, int32_t* starts);
  // y[t * rows + o] for the rows of strips [first, last) and all tokens.
  void (*integer)(const IntegerView&, const Activations&, bool int8, float* y, int64_t first, int64_t last);
  void (*bitmask)(const BitmaskView&, const Activations&, bool int8, float* y, int64_t first, int64_t last);
  void (*nm)(const NMView&, const Activations&, bool int8, float* y, int64_t first, int64_t last);
  void (*dense)(const DenseView&, const Activations&, float* y, int64_t first, int64_t last);

  // out may be x. size is a positive multiple of nothing in particular.
  void (*norm)(const RowNorm&, const float* x, int64_t size, float* out);
  void (*gate)(Gate, const float* gate, const float* up, int64_t size,
               float* out);                               // up may be null: no product
  void (*add)(const float* x, int64_t size, float* sum);  // sum += x
  float (*largest)(const float* x, int64_t size);         // NaN is passed over
  // Turns (x[i], x[i + half]) by angle i: cosine[i], and sine in cosine[i + half].
  void (*rotate)(float* x, const float* cosine, int64_t half);
  void (*append)(const CacheShape&, const float* key, const float* value, int token, uint8_t* block);
  void (*attend)(const AttentionRows&);
  const TileKernels* tiles = nullptr;
};

const KernelTable& active_table();
Isa active_isa();
const char* isa_name(Isa isa);

// Throws std::invalid_argument for an unknown name or a level that this machine lacks.
void set_isa(const char* name);

}  // namespace gossamer
