// How threads of ours wait for each other: the one way for the pool and for teams.
#pragma once

#include <atomic>
#include <cstdint>

namespace gossamer {

// A number that threads wait on until it changes.
class alignas(64) Signal {
 public:
  std::atomic<uint32_t> value{0};

  // Returns once value is no longer `old`: spins first, then yields to whoever else wants the CPU, then sleeps.
  void wait_while(uint32_t old);
  // Wakes who sleeps. Call it after each change that somebody may wait for; it costs a load when nobody sleeps.
  void wake();

 private:
  std::atomic<int> asleep_{0};
};

}  // namespace gossamer
