#include "engine/ops/op.h"

#include <cmath>

#include "formats/validate.h"

namespace gossamer {

void expect_equal(const std::string& what, int64_t expected, int64_t got) {
  if (expected != got) refuse(what, std::to_string(expected), std::to_string(got));
}

void expect_table(const std::string& what, const MatrixView& table) {
  if (!std::holds_alternative<IntegerView>(table) && !std::holds_alternative<DenseView>(table))
    refuse(what, "a dense or integer matrix", "another format");
}

void expect_finite(const std::string& what, float value) {
  if (!std::isfinite(value)) refuse(what, "a finite number", std::to_string(value));
}

void expect_norm(const std::string& what, const RowNorm& norm) {
  if (norm.weight == nullptr) refuse(what, "weights", "none");
  if (!(norm.epsilon >= 0) || !std::isfinite(norm.epsilon))
    refuse(what + ": epsilon", "0 or more", std::to_string(norm.epsilon));
}

}  // namespace gossamer
