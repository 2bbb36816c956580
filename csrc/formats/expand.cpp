#include "formats/expand.h"

namespace gossamer {

void expand(const BitmaskView& m, uint8_t* codes4) {
  const int64_t pairs = m.quads() / 2;
  std::memset(codes4, 0x88, static_cast<size_t>(m.strips() * pairs * 64));
  for (int64_t strip = 0; strip < m.strips(); ++strip) {
    int64_t next[2] = {load_i64(m.offsets, strip), load_i64(m.offsets, strip)};  // of even quads, of odd ones
    for (int64_t quad = 0; quad < m.quads(); ++quad) {
      const int64_t odd = quad % 2;
      uint8_t* out = codes4 + (strip * pairs + quad / 2) * 64;
      for (uint64_t mask = load_u64(m.mask, strip * m.quads() + quad); mask; mask &= mask - 1) {
        const int nibble = m.values[next[odd]++] >> (4 * odd) & 15;
        out[__builtin_ctzll(mask)] ^= static_cast<uint8_t>(nibble << (4 * odd));  // value + 8
      }
    }
  }
}

}  // namespace gossamer
