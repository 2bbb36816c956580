#include "engine/plan.h"

#include <cmath>

#include "formats/validate.h"

namespace gossamer {
namespace {

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

}  // namespace

int64_t Plan::width_of(const char* what, int buffer) const {
  if (buffer < 0 || buffer >= static_cast<int>(widths.size()))
    refuse(std::string(what) + ": buffer", "0 to " + std::to_string(widths.size() - 1),
           std::to_string(buffer));
  return widths[static_cast<size_t>(buffer)];
}

void Plan::expect_width(const char* what, int buffer, int64_t width) const {
  expect_equal(std::string(what) + ": width of the buffer", width_of(what, buffer), width);
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

void Plan::add(EmbedOp op) {
  if (!ops.empty()) refuse("embedding", "at the beginning", "after other ops");
  expect_table("embedding", op.table);
  expect_finite("embedding: scale", op.scale);
  expect_width("embedding", 0, shape_of(op.table).columns);
  vocabulary = shape_of(op.table).rows;
  if (op.has_positions) {
    expect_table("positions", op.positions);
    expect_width("positions", 0, shape_of(op.positions).columns);
    if (max_positions > shape_of(op.positions).rows)
      refuse("positions", std::to_string(max_positions) + " rows or more",
             std::to_string(shape_of(op.positions).rows));
  }
  ops.emplace_back(std::move(op));
}

void Plan::add(LinearsOp op) {
  if (ops.empty() || outputs != 0) refuse("linears", "between an embedding and a head", "elsewhere");
  const int64_t input = width_of("linears: input", op.input);
  if (op.has_norm) expect_norm("linears: norm", op.norm);
  const size_t count = op.linears.size();
  if (count < 1 || count > kMaxLinears)
    refuse("linears", "1 to " + std::to_string(kMaxLinears), std::to_string(count));
  if (op.then == Then::add && count != 1) refuse("linears to be added", "1", std::to_string(count));
  if (op.then == Then::gate && count > 2) refuse("linears of a gate", "1 or 2", std::to_string(count));
  if (op.head && (op.then != Then::store || count != 1)) refuse("head", "one linear", "another form");
  for (const Linear& linear : op.linears) {
    const Shape& shape = shape_of(linear.weight);
    expect_equal("linears: inputs of the weight", input, shape.columns);
    if (op.head) outputs = shape.rows;
    else expect_width("linears: output", linear.output, shape.rows);
    if (!op.head && linear.output == op.input)
      refuse("linears: output", "another buffer than the input", "the same");
    for (const Linear& other : op.linears)
      if (&other != &linear && other.output == linear.output)
        refuse("linears: outputs", "different buffers", "the same");
  }
  if (op.then != Then::store) {
    expect_width("linears: target", op.target, shape_of(op.linears[0].weight).rows);
    expect_equal("linears: outputs", shape_of(op.linears[0].weight).rows,
                 shape_of(op.linears.back().weight).rows);
    if (op.target == op.input) refuse("linears: target", "another buffer than the input", "the same");
  }
  ops.emplace_back(std::move(op));
}

void Plan::add(GateOp op) {
  if (ops.empty() || outputs != 0) refuse("gate", "between an embedding and a head", "elsewhere");
  const int64_t width = width_of("gate: first", op.first);
  if (op.second != -1) expect_width("gate: second", op.second, width);
  expect_width("gate: target", op.target, width);
  if (op.target == op.second) refuse("gate: target", "another buffer than the second input", "the same");
  ops.emplace_back(op);
}

void Plan::add(AddNormOp op) {
  if (ops.empty() || outputs != 0) refuse("norm", "between an embedding and a head", "elsewhere");
  expect_norm("norm", op.norm);
  expect_width("norm", op.target, width_of("norm", op.input));
  if (op.input == op.target) refuse("norm: target", "another buffer than the input", "the same");
  ops.emplace_back(op);
}

void Plan::add(AttentionOp op) {
  if (ops.empty() || outputs != 0) refuse("attention", "between an embedding and a head", "elsewhere");
  if (op.head_dim < 16 || op.head_dim > kLargestHead || op.head_dim % 16 != 0)
    refuse("attention: head_dim", "a multiple of 16 up to " + std::to_string(kLargestHead),
           std::to_string(op.head_dim));
  if (op.heads < 1 || op.key_heads < 1 || op.heads > 4096 || op.heads % op.key_heads != 0)
    refuse("attention: heads", "a multiple of the key heads",
           std::to_string(op.heads) + " and " + std::to_string(op.key_heads));
  expect_finite("attention: scale", op.scale);
  if (op.window < 0) refuse("attention: window", "0 or more", std::to_string(op.window));
  const int64_t keys = int64_t{op.key_heads} * op.head_dim, queries = int64_t{op.heads} * op.head_dim;
  const auto expect_inside = [&](const char* what, const HeadPart& part, int64_t size) {
    const int64_t width = width_of(what, part.buffer);
    if (part.offset < 0 || size > width || part.offset > width - size)
      refuse(std::string("attention: ") + what,
             std::to_string(size) + " floats inside the buffer of " + std::to_string(width),
             "offset " + std::to_string(part.offset));
  };
  expect_inside("query", op.query, queries);
  expect_inside("key", op.key, keys);
  expect_inside("value", op.value, keys);
  expect_width("attention: output", op.output, queries);
  for (const HeadPart& part : {op.query, op.key, op.value})
    if (part.buffer == op.output) refuse("attention: output", "a buffer of its own", "an input");
  if (op.has_norms)
    expect_norm("attention: query norm", op.query_norm), expect_norm("attention: key norm", op.key_norm);
  if (op.rotary >= static_cast<int>(rotaries.size()))
    refuse("attention: rotary", "a table of angles", std::to_string(op.rotary));
  if (op.rotary >= 0 && 2 * rotaries[static_cast<size_t>(op.rotary)].inverse_frequency.size() >
                            static_cast<size_t>(op.head_dim))
    refuse("attention: rotary", "at most head_dim angles", "more");
  expect_equal("attention: layer", layers, op.layer);
  if (layers != 0) {
    expect_equal("attention: key heads of all layers", key_heads, op.key_heads);
    expect_equal("attention: head_dim of all layers", head_dim, op.head_dim);
  }
  layers += 1, key_heads = op.key_heads, head_dim = op.head_dim;
  ops.emplace_back(op);
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
