#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "formats/validate.h"
#include "kernels/table.h"

namespace gossamer {

void validate(const Sampling& s) {
  if (!(s.temperature >= 0) || !std::isfinite(s.temperature))
    refuse("temperature", "0 or more", std::to_string(s.temperature));
  if (s.top_k < 0) refuse("top_k", "0 or more", std::to_string(s.top_k));
  if (!(s.top_p > 0 && s.top_p <= 1)) refuse("top_p", "above 0, up to 1", std::to_string(s.top_p));
  if (!(s.min_p >= 0 && s.min_p <= 1)) refuse("min_p", "0 to 1", std::to_string(s.min_p));
  if (!(s.repetition_penalty > 0) || !std::isfinite(s.repetition_penalty))
    refuse("repetition_penalty", "above 0", std::to_string(s.repetition_penalty));
}

int32_t largest_logit(const float* logits, int64_t count) {
  constexpr int64_t kRun = 4096;
  float best = -INFINITY;
  int64_t at = 0;
  for (int64_t begin = 0; begin < count; begin += kRun)
    if (const float largest = active_table().largest(logits + begin, std::min(kRun, count - begin));
        largest > best)
      best = largest, at = begin;
  while (at + 1 < count && logits[at] != best) ++at;
  return static_cast<int32_t>(at);
}

bool all_finite(const float* values, int64_t count) {
  constexpr uint32_t kExponent = 0x7f800000u;  // all ones in NaN and infinity
  uint32_t found = 0;
  for (int64_t i = 0; i < count; ++i) found |= (std::bit_cast<uint32_t>(values[i]) & kExponent) == kExponent;
  return found == 0;
}

Sampler::Sampler(const Sampling& sampling, int64_t vocabulary)
    : sampling_(sampling), vocabulary_(vocabulary), state_(sampling.seed) {
  validate(sampling);
  if (sampling_.repetition_penalty != 1) {
    seen_.resize(static_cast<size_t>(vocabulary));
    seen_tokens_.reserve(static_cast<size_t>(vocabulary));
  }
  if (sampling_.temperature > 0) choices_.reserve(static_cast<size_t>(vocabulary));
}

void Sampler::saw(int32_t token) {
  if (seen_.empty() || seen_[static_cast<size_t>(token)]) return;
  seen_[static_cast<size_t>(token)] = 1;
  seen_tokens_.push_back(token);
}

int32_t Sampler::next(float* logits) {
  if (!all_finite(logits, vocabulary_)) return kNotFinite;
  for (int32_t token : seen_tokens_) {
    float& logit = logits[token];
    logit = logit < 0 ? logit * sampling_.repetition_penalty : logit / sampling_.repetition_penalty;
  }
  const int32_t token = sampling_.temperature > 0 ? draw(logits) : largest_logit(logits, vocabulary_);
  saw(token);
  return token;
}

namespace {

// splitmix64 (Steele et al. 2014): 53 bits as a number from 0 to 1, 1 excluded.
double uniform(uint64_t& state) {
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

}  // namespace

// Tokens whose logits are further below the largest, e^-30 as likely, are not worth sorting.
constexpr float kRange = 30;

int32_t Sampler::draw(const float* logits) {
  const auto likelier = [](const Choice& a, const Choice& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  };
  choices_.clear();
  const float least = logits[largest_logit(logits, vocabulary_)] / sampling_.temperature - kRange;
  for (int64_t i = 0; i < vocabulary_; ++i)
    if (const float logit = logits[i] / sampling_.temperature; logit >= least)
      choices_.push_back({logit, static_cast<int32_t>(i)});
  if (sampling_.top_k > 0 && sampling_.top_k < static_cast<int64_t>(choices_.size())) {
    std::nth_element(choices_.begin(), choices_.begin() + sampling_.top_k - 1, choices_.end(), likelier);
    choices_.resize(static_cast<size_t>(sampling_.top_k));
  }
  std::sort(choices_.begin(), choices_.end(), likelier);
  const double top = choices_.front().logit;
  const auto weight = [&](const Choice& choice) { return std::exp(choice.logit - top); };
  double total = 0;
  for (const Choice& choice : choices_) total += weight(choice);
  size_t kept = choices_.size();
  if (sampling_.top_p < 1) {  // the fewest whose sum reaches top_p
    double sum = 0;
    for (kept = 0; kept < choices_.size() && sum < sampling_.top_p * total; ++kept)
      sum += weight(choices_[kept]);
    kept = std::max<size_t>(kept, 1);
  }
  while (kept > 1 && weight(choices_[kept - 1]) < sampling_.min_p) --kept;
  total = 0;
  for (size_t i = 0; i < kept; ++i) total += weight(choices_[i]);
  double left = uniform(state_) * total;
  for (size_t i = 0; i < kept; ++i) {
    left -= weight(choices_[i]);
    if (left < 0) return choices_[i].token;
  }
  return choices_[kept - 1].token;
}

}  // namespace gossamer
