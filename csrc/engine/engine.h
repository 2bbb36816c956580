// Sequences that are read and continued, several at a time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "engine/sampler.h"
#include "engine/step.h"

namespace gossamer {

struct EngineSettings {
  int threads = 1;
  bool int8_activations = false;
  bool int8_cache = false;
  int64_t max_step_tokens = 128;  // rows of the largest step; longer prompts are read in parts
  int64_t cache_blocks = 1;       // of 32 tokens, shared by all sequences
};

// New tokens of one sequence in a step. None: the token that was sampled last.
struct Feed {
  int64_t sequence = 0;
  std::span<const int32_t> tokens;
  bool sample = true;  // false: more of a prompt follows
};

CacheLayout cache_layout(const Plan& plan, bool int8);

// Every call locks the engine: threads may share it, one call runs at a time.
class Engine {
 public:
  Engine(Plan plan, const EngineSettings& settings);

  const Plan& plan() const { return plan_; }
  int threads() const { return team_.size(); }
  int64_t num_free_blocks();

  int64_t open(const Sampling& sampling);
  void close(int64_t sequence);
  int64_t length(int64_t sequence);
  // Begins an empty sequence with `tokens`, which another one has read from its start: whole blocks, which both use then.
  void share(int64_t sequence, int64_t source, std::span<const int32_t> tokens);
  // Forgets all but the first `tokens` tokens.
  void truncate(int64_t sequence, int64_t tokens);

  // Reads all feeds together and samples a token for each (-1 where none is wanted): as many steps as the feeds need,
  // usually one.
  std::vector<int32_t> step(const std::vector<Feed>& feeds);
  // Reads tokens of one sequence and writes the logits behind each: [tokens, outputs].
  void score(const Feed& feed, float* logits);
  // Samples up to `count` more tokens, each read before the next; ends after one of `stops`.
  std::vector<int32_t> generate(int64_t sequence, int64_t count, std::span<const int32_t> stops);

  void set_profile(bool on) { step_.set_profile(on); }
  std::vector<double> take_profile() { return step_.take_profile(); }

 private:
  struct Sequence {
    Sampler sampler;
    std::vector<int32_t> blocks;
    int64_t length = 0;  // tokens in the cache
    int32_t last = -1;   // sampled, not yet read
  };

  Sequence& find(int64_t sequence);
  std::span<const int32_t> tokens_of(const Feed& feed, const Sequence& sequence) const;
  void check(const Feed& feed, const Sequence& sequence) const;
  void reserve(const std::vector<Feed>& feeds);
  std::vector<int32_t> step_locked(const std::vector<Feed>& feeds);
  void check_process() const;

  std::mutex mutex_;
  const int process_;
  Plan plan_;
  Team team_;
  Cache cache_;
  Step step_;
  const int64_t max_step_tokens_;
  std::map<int64_t, Sequence> sequences_;
  int64_t next_sequence_ = 0;
  Pages logits_pages_;
  std::vector<int32_t> ids_;
  std::vector<Run> runs_;
  std::vector<int32_t> wanted_;
  std::vector<size_t> sampling_;  // feeds whose logits are in hand
};

}  // namespace gossamer
