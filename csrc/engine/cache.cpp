#include "engine/cache.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

namespace gossamer {

Pages::Pages(int64_t bytes) {
  const size_t size = static_cast<size_t>(bytes > 0 ? bytes : 64);
  void* data =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  data_ = std::unique_ptr<uint8_t, Unmap>(static_cast<uint8_t*>(data), Unmap{static_cast<int64_t>(size)});
}

void Pages::Unmap::operator()(uint8_t* data) const { munmap(data, static_cast<size_t>(bytes)); }

Cache::Cache(const CacheLayout& layout, int64_t num_blocks)
    : layout_(layout), pages_(layout.block_bytes() * num_blocks), users_(static_cast<size_t>(num_blocks)) {
  free_.reserve(static_cast<size_t>(num_blocks));
  for (int64_t block = num_blocks; block-- > 0;) free_.push_back(static_cast<int32_t>(block));
}

bool Cache::reserve(std::vector<int32_t>& blocks, int64_t tokens) {
  const int64_t needed = (tokens + kCacheTokens - 1) / kCacheTokens - static_cast<int64_t>(blocks.size());
  if (needed > num_free()) return false;
  for (int64_t i = 0; i < needed; ++i) {
    blocks.push_back(free_.back());
    users_[static_cast<size_t>(free_.back())] = 1;
    free_.pop_back();
  }
  return true;
}

void Cache::share(const std::vector<int32_t>& from, size_t count, std::vector<int32_t>& blocks) {
  blocks.assign(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(count));
  for (int32_t block : blocks) users_[static_cast<size_t>(block)] += 1;
}

bool Cache::own_last(std::vector<int32_t>& blocks) {
  if (blocks.empty() || users_[static_cast<size_t>(blocks.back())] == 1) return true;
  if (free_.empty()) return false;
  const size_t bytes = static_cast<size_t>(layout_.block_bytes()),
               shared = static_cast<size_t>(blocks.back());
  users_[shared] -= 1;
  blocks.back() = free_.back();
  users_[static_cast<size_t>(free_.back())] = 1;
  free_.pop_back();
  std::memcpy(base() + static_cast<size_t>(blocks.back()) * bytes, base() + shared * bytes, bytes);
  return true;
}

void Cache::release(std::vector<int32_t>& blocks, int64_t tokens) {
  const size_t kept = static_cast<size_t>((tokens + kCacheTokens - 1) / kCacheTokens);
  while (blocks.size() > kept) {
    if (--users_[static_cast<size_t>(blocks.back())] == 0) free_.push_back(blocks.back());
    blocks.pop_back();
  }
}

}  // namespace gossamer
