// From logits to the next token.
#pragma once

#include <cstdint>
#include <vector>

namespace gossamer {

struct Sampling {
  float temperature = 0;  // 0: the most likely token
  int64_t top_k = 0;      // 0: all
  float top_p = 1;
  float min_p = 0;  // tokens less likely than this share of the likeliest are left out
  float repetition_penalty = 1;
  uint64_t seed = 0;
};

// Throws std::invalid_argument for settings that cannot be meant.
void validate(const Sampling& sampling);

class Sampler {
 public:
  Sampler(const Sampling& sampling, int64_t vocabulary);

  // A token that has been read or written: the penalty is about these.
  void saw(int32_t token);
  // Changes logits [vocabulary]. In transformers' order: penalty, temperature, top-k, top-p, min-p.
  // kNotFinite if a logit is NaN or infinite: there is no next token then.
  int32_t next(float* logits);

 private:
  struct Choice {
    float logit;
    int32_t token;
  };
  int32_t draw(const float* logits);

  Sampling sampling_;
  int64_t vocabulary_;
  uint64_t state_;
  std::vector<uint8_t> seen_;
  std::vector<int32_t> seen_tokens_;
  std::vector<Choice> choices_;
};

constexpr int32_t kNotFinite = -2;

int32_t largest_logit(const float* logits, int64_t count);
bool all_finite(const float* values, int64_t count);

}  // namespace gossamer
