// The form in which products take their activations, and how to bring rows of floats into it.
#pragma once

#include <cstdint>

#include "formats/matrix.h"
#include "kernels/table.h"

namespace gossamer {

// From so many tokens on, products in int8 go through tiles where there are any; those of N:M (4:16 excepted) from so
// many more, since they first have to be made dense. Only for folds of 64 columns: with 32, fetching the sums takes what
// the tiles save (docs/log.md, 2026-11-28).
constexpr int64_t kFewestTiled = 16, kFewestTiledNM = 64;

// Up to so many tokens products of 4:8 shuffle their activations; for more it is cheaper to make the weights dense once.
constexpr int64_t kMostShuffled = 32;

// Tokens may be prepared in such runs: a multiple of all block sizes above 1.
inline int64_t pack_tokens(const KernelTable& table) { return table.tiles == nullptr ? 24 : 48; }

// Equal layouts: the same prepared activations serve both matrices.
struct ActivationLayout {
  int64_t columns = 0, padded_columns = 0;
  bool int8 = false, windows = false, tiles = false;  // windows: 16 columns of a token lie together (nm)
  int scale_columns = 64, fold_columns = 64;          // int8 only
  int zero = 0;                                       // int8 only: of the weights' codes
  int64_t sum_groups = 0;                             // float, one token: sums over so many groups of columns

  bool operator==(const ActivationLayout&) const = default;
  int64_t folds() const { return padded_columns / fold_columns; }
  int granule() const { return tiles ? kTileColumns : windows ? 16 : 4; }
  int block(const KernelTable& table, int64_t remaining) const;  // tokens of the next block
};

// int8 is ignored where the weights are floats. scale_columns: columns that share a scale, 32 or 64 (32 anyway when the
// weights have groups of 32).
ActivationLayout layout_for(const KernelTable& table, const MatrixView& matrix, int64_t tokens, bool int8,
                            int scale_columns = 64);

// Where the prepared tokens lie; what a layout does not use has no room.
struct ActivationMemory {
  float* x = nullptr;           // [tokens, padded_columns]
  uint8_t* codes = nullptr;     // [tokens, padded_columns]
  float* scales = nullptr;      // [tokens, folds]
  int32_t* starts = nullptr;    // [tokens, folds]
  float* sums = nullptr;        // [tokens, folds]
  float* group_sums = nullptr;  // [sum_groups]
};

// How much room so many tokens take, and how it is cut up: every array begins at a multiple of 64 bytes.
struct ActivationRoom {
  int64_t x = 0, codes = 0, scales = 0, starts = 0, sums = 0, group_sums = 0;  // offsets
  int64_t bytes = 0;

  ActivationRoom(const ActivationLayout& layout, int64_t tokens);
  ActivationMemory at(uint8_t* begin) const;
};

// True when the rows can be used as they are.
bool is_plain(const ActivationLayout& layout, int64_t tokens);

// Prepares the tokens [first, last) of x [tokens, columns]. Requires first to be a multiple of pack_tokens.
void prepare_tokens(const KernelTable& table, const ActivationLayout& layout, const float* x, int64_t tokens,
                    int64_t first, int64_t last, const ActivationMemory& memory);

// What the kernels are handed once all tokens are prepared.
Activations prepared(const ActivationLayout& layout, const float* x, int64_t tokens,
                     const ActivationMemory& memory);

// y[t * rows + o] for the rows of strips [first, last).
void multiply_strips(const KernelTable& table, const MatrixView& matrix, const ActivationLayout& layout,
                     const Activations& act, float* y, int64_t first, int64_t last);

}  // namespace gossamer
