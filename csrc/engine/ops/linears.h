#pragma once

#include <vector>

#include "engine/ops/op.h"

namespace gossamer {

struct Linear {
  MatrixView weight;
  const float* bias = nullptr;
  int output = 0;  // buffer
};

enum class Then {
  store,  // outputs keep the products
  add,    // target += the one product
  gate    // target = activation(first) * second, or activation(first) alone
};

constexpr size_t kMaxLinears = 8;  // products of one input

// output = weight * norm(input) + bias for each linear, then what `then` says with all of it.
struct LinearsOp {
  int input = 0;
  bool has_norm = false;
  RowNorm norm;
  std::vector<Linear> linears;
  Then then = Then::store;
  Gate gate = Gate::silu;
  int target = 0;
  bool head = false;  // runs for the rows whose logits are wanted, and writes there
};

void admit(const LinearsOp& op, Plan& plan);
Work ready(const LinearsOp& op, StepContext& step);

}  // namespace gossamer
