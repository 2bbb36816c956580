#include "engine/plan.h"

#include "formats/validate.h"

namespace gossamer {

int64_t Plan::width_of(const char* what, int buffer) const {
  if (buffer < 0 || buffer >= static_cast<int>(widths.size()))
    refuse(std::string(what) + ": buffer", "0 to " + std::to_string(widths.size() - 1),
           std::to_string(buffer));
  return widths[static_cast<size_t>(buffer)];
}

void Plan::expect_width(const char* what, int buffer, int64_t width) const {
  expect_equal(std::string(what) + ": width of the buffer", width_of(what, buffer), width);
}

void Plan::expect_inside(const char* what) const {
  if (ops.empty() || outputs != 0) refuse(what, "between an embedding and a head", "elsewhere");
}

int Plan::add_buffer(int64_t width) {
  if (width < 1 || width > int64_t{1} << 24) refuse("width of a buffer", "1 to 2^24", std::to_string(width));
  widths.push_back(width);
  return static_cast<int>(widths.size()) - 1;
}

int Plan::add_rotary(Rotary rotary) {
  if (rotary.inverse_frequency.empty() || rotary.inverse_frequency.size() > kLargestHead / 2)
    refuse("rotary frequencies", "1 to " + std::to_string(kLargestHead / 2),
           std::to_string(rotary.inverse_frequency.size()));
  for (float frequency : rotary.inverse_frequency) expect_finite("rotary frequency", frequency);
  rotaries.push_back(std::move(rotary));
  return static_cast<int>(rotaries.size()) - 1;
}

int64_t Plan::weight_bytes() const {
  const auto all = [](const MatrixView& matrix) { return bytes_before(matrix, shape_of(matrix).strips()); };
  int64_t bytes = 0;
  for (const Op& op : ops) {
    if (const auto* linears = std::get_if<LinearsOp>(&op))
      for (const Linear& linear : linears->linears) bytes += all(linear.weight);
    if (const auto* embed = std::get_if<EmbedOp>(&op))
      bytes += all(embed->table) / shape_of(embed->table).rows;
  }
  return bytes;
}

void Plan::check_complete() const {
  if (ops.empty() || outputs == 0)
    refuse("plan", "an embedding, layers and a head", std::to_string(ops.size()) + " ops");
  if (layers == 0) refuse("plan", "at least one attention", "none");
  expect_equal("plan: outputs of the head", vocabulary, outputs);
  if (max_positions < 1 || max_positions > int64_t{1} << 24)
    refuse("plan: positions", "1 to 2^24", std::to_string(max_positions));
}

}  // namespace gossamer
