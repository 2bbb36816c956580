// Keys and values of all sequences in blocks of 32 tokens, and which blocks belong to whom.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels/table.h"

namespace gossamer {

// Zeroed pages that the system hands out when they are first touched.
class Pages {
 public:
  Pages() = default;
  explicit Pages(int64_t bytes);  // throws std::bad_alloc
  template <class T> T* get() const { return reinterpret_cast<T*>(data_.get()); }

 private:
  struct Unmap {
    int64_t bytes;
    void operator()(uint8_t* data) const;
  };
  std::unique_ptr<uint8_t, Unmap> data_;
};

struct CacheLayout {
  int layers = 0, key_heads = 0;
  CacheShape head;

  int64_t head_bytes() const { return (head.bytes() + 63) / 64 * 64; }
  int64_t block_bytes() const { return head_bytes() * key_heads * layers; }
  int64_t offset(int layer, int key_head) const {
    return (int64_t{layer} * key_heads + key_head) * head_bytes();
  }
};

class Cache {
 public:
  Cache(const CacheLayout& layout, int64_t num_blocks);

  const CacheLayout& layout() const { return layout_; }
  uint8_t* base() const { return pages_.get<uint8_t>(); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }

  // Appends blocks until `tokens` fit; false, and nothing changed, when too few are free.
  bool reserve(std::vector<int32_t>& blocks, int64_t tokens);
  // Appends the first `count` blocks of another sequence to an empty list: both read them, nobody writes to them any more.
  void share(const std::vector<int32_t>& from, size_t count, std::vector<int32_t>& blocks);
  // Copies the last block where others read it too, so that it may be written to; false when none is free.
  bool own_last(std::vector<int32_t>& blocks);
  // Gives back all blocks but those of the first `tokens`; a block is free when its last sequence has given it back.
  void release(std::vector<int32_t>& blocks, int64_t tokens = 0);

 private:
  CacheLayout layout_;
  Pages pages_;
  std::vector<int32_t> free_;
  std::vector<int32_t> users_;  // sequences that hold each block
};

}  // namespace gossamer
