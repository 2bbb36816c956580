#include "engine/engine.h"

#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "formats/validate.h"

namespace gossamer {
namespace {

EngineSettings checked(const EngineSettings& settings, const Plan& plan) {
  plan.check_complete();
  if (settings.threads < 1 || settings.threads > 1024)
    refuse("threads", "1 to 1024", std::to_string(settings.threads));
  if (settings.max_step_tokens < 1 || settings.max_step_tokens > 65536)
    refuse("max_step_tokens", "1 to 65536", std::to_string(settings.max_step_tokens));
  if (settings.cache_blocks < 1 || settings.cache_blocks > (int64_t{1} << 31) - 1)
    refuse("cache blocks", "1 to 2^31 - 1", std::to_string(settings.cache_blocks));
  return settings;
}

}  // namespace

CacheLayout cache_layout(const Plan& plan, bool int8) {
  return {
      .layers = plan.layers, .key_heads = plan.key_heads, .head = {.head_dim = plan.head_dim, .int8 = int8}};
}

Engine::Engine(Plan plan, const EngineSettings& settings)
    : process_(getpid()),
      plan_(std::move(plan)),
      team_(checked(settings, plan_).threads),
      cache_(cache_layout(plan_, settings.int8_cache), settings.cache_blocks),
      step_(plan_, cache_, team_, settings.int8_activations, settings.max_step_tokens),
      max_step_tokens_(settings.max_step_tokens),
      logits_pages_(plan_.outputs * settings.max_step_tokens * 4) {
  ids_.reserve(static_cast<size_t>(max_step_tokens_));
  runs_.reserve(static_cast<size_t>(max_step_tokens_));
  wanted_.reserve(static_cast<size_t>(max_step_tokens_));
  sampling_.reserve(static_cast<size_t>(max_step_tokens_));
}

// The threads of the team do not exist in a forked child.
void Engine::check_process() const {
  if (getpid() != process_)
    throw std::runtime_error("the engine belongs to another process: make one after the fork");
}

Engine::Sequence& Engine::find(int64_t sequence) {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end()) refuse("sequence", "one that is open", std::to_string(sequence));
  return found->second;
}

int64_t Engine::num_free_blocks() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return cache_.num_free();
}

int64_t Engine::open(const Sampling& sampling) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Sequence sequence{.sampler = Sampler(sampling, plan_.outputs), .blocks = {}};
  sequence.blocks.reserve(static_cast<size_t>((plan_.max_positions + kCacheTokens - 1) / kCacheTokens));
  sequences_.emplace(next_sequence_, std::move(sequence));
  return next_sequence_++;
}

void Engine::close(int64_t sequence) {
  const std::lock_guard<std::mutex> lock(mutex_);
  cache_.release(find(sequence).blocks);
  sequences_.erase(sequence);
}

int64_t Engine::length(int64_t sequence) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return find(sequence).length;
}

void Engine::share(int64_t sequence, int64_t source, std::span<const int32_t> tokens) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Sequence& to = find(sequence);
  const Sequence& from = find(source);
  const int64_t count = static_cast<int64_t>(tokens.size());
  if (to.length != 0) refuse("share: sequence", "an empty one", std::to_string(to.length) + " tokens");
  if (count > from.length || count % kCacheTokens != 0)
    refuse("share: tokens",
           "a multiple of " + std::to_string(kCacheTokens) + " up to " + std::to_string(from.length),
           std::to_string(count));
  for (int32_t token : tokens)
    if (token < 0 || token >= plan_.vocabulary)
      refuse("token", "0 to " + std::to_string(plan_.vocabulary - 1), std::to_string(token));
  cache_.share(from.blocks, tokens.size() / kCacheTokens, to.blocks);
  for (int32_t token : tokens) to.sampler.saw(token);
  to.length = count;
}

void Engine::truncate(int64_t sequence, int64_t tokens) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Sequence& found = find(sequence);
  if (tokens < 0 || tokens > found.length)
    refuse("tokens to keep", "0 to " + std::to_string(found.length), std::to_string(tokens));
  cache_.release(found.blocks, tokens);
  found.length = tokens;
  found.last = -1;
  if (tokens % kCacheTokens == 0 || cache_.own_last(found.blocks)) return;
  found.length = tokens / kCacheTokens * kCacheTokens;
  cache_.release(found.blocks, found.length);
  throw std::runtime_error("the cache is full: a block that another sequence reads cannot be copied; " +
                           std::to_string(found.length) + " tokens are left");
}

std::span<const int32_t> Engine::tokens_of(const Feed& feed, const Sequence& sequence) const {
  return feed.tokens.empty() ? std::span<const int32_t>(&sequence.last, 1) : feed.tokens;
}

void Engine::check(const Feed& feed, const Sequence& sequence) const {
  const auto tokens = tokens_of(feed, sequence);
  for (int32_t token : tokens)
    if (token < 0 || token >= plan_.vocabulary) {
      if (feed.tokens.empty() && token < 0)
        refuse("tokens", "at least one", "none, and nothing was sampled before");
      refuse("token", "0 to " + std::to_string(plan_.vocabulary - 1), std::to_string(token));
    }
  if (sequence.length + static_cast<int64_t>(tokens.size()) > plan_.max_positions)
    refuse("positions", "at most " + std::to_string(plan_.max_positions),
           std::to_string(sequence.length + static_cast<int64_t>(tokens.size())));
}

void Engine::reserve(const std::vector<Feed>& feeds) {
  int64_t needed = 0;
  for (const Feed& feed : feeds) {
    const Sequence& sequence = find(feed.sequence);
    check(feed, sequence);
    const int64_t tokens = sequence.length + static_cast<int64_t>(tokens_of(feed, sequence).size());
    needed += (tokens + kCacheTokens - 1) / kCacheTokens - static_cast<int64_t>(sequence.blocks.size());
    for (const Feed& other : feeds)
      if (&other != &feed && other.sequence == feed.sequence)
        refuse("feeds", "different sequences", "the same twice");
  }
  if (needed > cache_.num_free())
    throw std::runtime_error("the cache is full: " + std::to_string(needed) + " blocks of " +
                             std::to_string(kCacheTokens) + " tokens are needed, " +
                             std::to_string(cache_.num_free()) + " are free");
  for (const Feed& feed : feeds) {
    Sequence& sequence = find(feed.sequence);
    cache_.reserve(sequence.blocks, sequence.length + static_cast<int64_t>(tokens_of(feed, sequence).size()));
  }
}

std::vector<int32_t> Engine::step(const std::vector<Feed>& feeds) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return step_locked(feeds);
}

std::vector<int32_t> Engine::step_locked(const std::vector<Feed>& feeds) {
  check_process();
  reserve(feeds);
  std::vector<int32_t> sampled(feeds.size(), -1);
  float* logits = logits_pages_.get<float>();
  for (size_t next = 0, offset = 0; next < feeds.size();) {
    ids_.clear(), runs_.clear(), wanted_.clear();
    const size_t first = next;
    while (next < feeds.size() && static_cast<int64_t>(ids_.size()) < max_step_tokens_) {
      Sequence& sequence = find(feeds[next].sequence);
      const auto tokens = tokens_of(feeds[next], sequence).subspan(offset);
      const size_t count = std::min(tokens.size(), static_cast<size_t>(max_step_tokens_) - ids_.size());
      runs_.push_back({.first_row = static_cast<int64_t>(ids_.size()),
                       .count = static_cast<int64_t>(count),
                       .position = sequence.length,
                       .blocks = sequence.blocks.data()});
      for (int32_t token : tokens.first(count)) {
        ids_.push_back(token);
        if (!feeds[next].tokens.empty()) sequence.sampler.saw(token);
      }
      sequence.length += static_cast<int64_t>(count);
      if (count < tokens.size()) {
        offset += count;
        break;
      }
      if (feeds[next].sample) wanted_.push_back(static_cast<int32_t>(ids_.size()) - 1);
      offset = 0;
      ++next;
    }
    step_.run({.tokens = static_cast<int64_t>(ids_.size()),
               .ids = ids_.data(),
               .runs = &runs_,
               .wanted = &wanted_,
               .logits = logits});
    sampling_.clear();
    for (size_t i = first; i < next; ++i) {
      if (feeds[i].sample) sampling_.push_back(i);
      else find(feeds[i].sequence).last = -1;
    }
    const auto sample = [&](int64_t row) {
      const size_t i = sampling_[static_cast<size_t>(row)];
      Sequence& sequence = find(feeds[i].sequence);
      sampled[i] = sequence.last = sequence.sampler.next(logits + row * plan_.outputs);
    };
    const int64_t rows = static_cast<int64_t>(sampling_.size());
    if (rows == 1) sample(0);
    if (rows > 1)
      team_.run([&](int) {
        for (int64_t row; (row = team_.claim()) < rows;) sample(row);
      });
    for (const size_t i : sampling_)
      if (sampled[i] == kNotFinite) {
        Sequence& sequence = find(feeds[i].sequence);
        sequence.last = -1;
        throw std::runtime_error("the logits behind token " + std::to_string(sequence.length) +
                                 " are NaN or infinite: the weights are damaged, or too large for this "
                                 "arithmetic");
      }
  }
  return sampled;
}

void Engine::score(const Feed& feed, float* logits) {
  const std::lock_guard<std::mutex> lock(mutex_);
  check_process();
  reserve({feed});
  Sequence& sequence = find(feed.sequence);
  for (size_t done = 0; done < feed.tokens.size();) {
    const size_t count = std::min(feed.tokens.size() - done, static_cast<size_t>(max_step_tokens_));
    const auto part = feed.tokens.subspan(done, count);
    wanted_.resize(count);
    for (size_t i = 0; i < count; ++i) wanted_[i] = static_cast<int32_t>(i);
    runs_.assign(1, {.first_row = 0,
                     .count = static_cast<int64_t>(count),
                     .position = sequence.length,
                     .blocks = sequence.blocks.data()});
    step_.run({.tokens = static_cast<int64_t>(count),
               .ids = part.data(),
               .runs = &runs_,
               .wanted = &wanted_,
               .logits = logits + static_cast<int64_t>(done) * plan_.outputs});
    sequence.length += static_cast<int64_t>(count);
    done += count;
  }
  sequence.last = -1;
}

std::vector<int32_t> Engine::generate(int64_t sequence, int64_t count, std::span<const int32_t> stops) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<int32_t> tokens;
  const std::vector<Feed> feeds(1, {.sequence = sequence, .tokens = {}});
  while (static_cast<int64_t>(tokens.size()) < count) {
    tokens.push_back(step_locked(feeds)[0]);
    if (std::find(stops.begin(), stops.end(), tokens.back()) != stops.end()) break;
  }
  return tokens;
}

}  // namespace gossamer
