// What an op of a plan is: a struct that says what to do, `admit`, which checks it as it is added to a plan, and `ready`,
// which makes of it what each member of a team does in a step. Each op has a file of its own here, and a row in plan.h.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "formats/matrix.h"
#include "kernels/table.h"

namespace gossamer {

struct Plan;
class StepContext;

// Called by all members at the same time; a barrier follows.
using Work = std::function<void(int member)>;

// All throw std::invalid_argument with what was expected and got.
void expect_equal(const std::string& what, int64_t expected, int64_t got);
void expect_table(const std::string& what, const MatrixView& table);
void expect_finite(const std::string& what, float value);
void expect_norm(const std::string& what, const RowNorm& norm);

}  // namespace gossamer
