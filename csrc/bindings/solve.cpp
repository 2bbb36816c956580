// Chunks of the solvers, with their arrays checked: they are called by Python once for some dozens of inputs.
#include "solve/chunks.h"

#include "bindings/matrices.h"

using namespace nanobind::literals;

namespace gossamer {
namespace {

using Floats = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Groups = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const float* matrix(const char* name, const Floats& array, int64_t rows, int64_t columns) {
  const auto own_rows = static_cast<int64_t>(array.shape(0)),
             own_columns = static_cast<int64_t>(array.shape(1));
  if (own_rows < rows || own_columns != columns)
    refuse(name, "[" + std::to_string(rows) + ", " + std::to_string(columns) + "]",
           "[" + std::to_string(own_rows) + ", " + std::to_string(own_columns) + "]");
  return array.data();
}

RowGrids grids_of(const Floats& weight_IO, const std::optional<Floats>& kept_IO, int64_t first,
                  int64_t count) {
  const auto inputs = static_cast<int64_t>(weight_IO.shape(0)),
             outputs = static_cast<int64_t>(weight_IO.shape(1));
  if (first < 0 || count < 1 || count > kMostChunkInputs || first + count > inputs)
    refuse("chunk", "1 to " + std::to_string(kMostChunkInputs) + " of the inputs",
           std::to_string(count) + " from " + std::to_string(first));
  RowGrids grids;
  grids.num_outputs = outputs;
  if (kept_IO) grids.kept_IO = matrix("kept", *kept_IO, inputs, outputs);
  return grids;
}

// Returns the number of groups.
int64_t set_scales(RowGrids& grids, const Floats& scale_GO, const Floats& minimum_GO,
                   std::pair<float, float> range) {
  const auto groups = static_cast<int64_t>(scale_GO.shape(0));
  grids.scale_GO = matrix("scale", scale_GO, groups, grids.num_outputs);
  grids.minimum_GO = matrix("minimum", minimum_GO, groups, grids.num_outputs);
  grids.lowest = range.first, grids.highest = range.second;
  return groups;
}

void check_groups(const Groups& group_I, int64_t inputs, int64_t groups) {
  if (static_cast<int64_t>(group_I.size()) != inputs) refuse("groups", "one for each input", "others");
  for (int64_t i = 0; i < inputs; ++i)
    if (group_I.data()[i] < 0 || group_I.data()[i] >= groups)
      refuse("groups", "those that have scales", std::to_string(group_I.data()[i]));
}

void fix(const Floats& weight_IO, const Floats& upper_II, const std::optional<Floats>& kept_IO,
         const std::optional<Floats>& scale_GO, const std::optional<Floats>& minimum_GO,
         const std::optional<Groups>& group_I, const std::optional<Floats>& code_IO, const Floats& error_CO,
         int64_t first, int64_t count, std::pair<float, float> range) {
  FeedbackChunk chunk;
  chunk.grids = grids_of(weight_IO, kept_IO, first, count);
  const auto inputs = static_cast<int64_t>(weight_IO.shape(0));
  const int64_t outputs = chunk.grids.num_outputs;
  if (scale_GO) {
    if (!minimum_GO || !group_I || !code_IO)
      refuse("rounding", "scales, minima, groups and codes", "some of them");
    check_groups(*group_I, inputs, set_scales(chunk.grids, *scale_GO, *minimum_GO, range));
    matrix("codes", *code_IO, inputs, outputs);
    chunk.group_I = group_I->data(), chunk.code_IO = code_IO->data();
  }
  matrix("errors", error_CO, count, outputs);
  chunk.first = first, chunk.count = count, chunk.stride = inputs;
  chunk.upper = matrix("factor", upper_II, inputs, inputs) + first * (inputs + 1);
  chunk.weight_CO = weight_IO.data() + first * outputs, chunk.error_CO = error_CO.data();
  const nb::gil_scoped_release release;
  fix_chunk(chunk);
}

void descend(const Floats& weight_IO, const Floats& hessian_II, const Floats& slope_IO,
             const std::optional<Floats>& kept_IO, const Floats& scale_GO, const Floats& minimum_GO,
             const Floats& code_IO, const Floats& change_CO, int64_t first, int64_t count, int64_t group_size,
             std::pair<float, float> range) {
  DescentChunk chunk;
  chunk.grids = grids_of(weight_IO, kept_IO, first, count);
  const auto inputs = static_cast<int64_t>(weight_IO.shape(0));
  const int64_t outputs = chunk.grids.num_outputs,
                groups = set_scales(chunk.grids, scale_GO, minimum_GO, range);
  if (group_size < 1 || groups * group_size < inputs)
    refuse("group size", "groups that hold all inputs", std::to_string(group_size));
  chunk.first = first, chunk.count = count, chunk.group_size = group_size, chunk.stride = inputs;
  chunk.hessian = matrix("hessian", hessian_II, inputs, inputs) + first * (inputs + 1);
  chunk.slope_IO = matrix("slope", slope_IO, inputs, outputs), chunk.weight_IO = weight_IO.data();
  matrix("codes", code_IO, inputs, outputs), matrix("changes", change_CO, count, outputs);
  chunk.code_IO = code_IO.data(), chunk.change_CO = change_CO.data();
  const nb::gil_scoped_release release;
  descend_chunk(chunk);
}

}  // namespace

void bind_solve(nb::module_& module) {
  module.def(
      "fix_chunk", &fix, "weight"_a, "upper"_a, "kept"_a.none(), "scale"_a.none(), "minimum"_a.none(),
      "groups"_a.none(), "codes"_a.none(), "errors"_a, "first"_a, "count"_a, "range"_a,
      "GPTQ over the inputs [first, first + count) of all rows; weights, codes and errors are written.");
  module.def("descend_chunk", &descend, "weight"_a, "hessian"_a, "slope"_a, "kept"_a.none(), "scale"_a,
             "minimum"_a, "codes"_a, "changes"_a, "first"_a, "count"_a, "group_size"_a, "range"_a,
             "Coordinate descent over the inputs [first, first + count) of all rows; codes and changes are "
             "written.");
}

}  // namespace gossamer
