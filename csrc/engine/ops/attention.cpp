#include "engine/ops/attention.h"

#include <algorithm>

#include "engine/context.h"
#include "formats/validate.h"

namespace gossamer {
namespace {

void expect_part(const Plan& plan, const char* what, const HeadPart& part, int64_t size) {
  const int64_t width = plan.width_of(what, part.buffer);
  if (part.offset < 0 || size > width || part.offset > width - size)
    refuse(std::string("attention: ") + what,
           std::to_string(size) + " floats inside the buffer of " + std::to_string(width),
           "offset " + std::to_string(part.offset));
}

void expect_heads(const AttentionOp& op) {
  if (op.head_dim < 16 || op.head_dim > kLargestHead || op.head_dim % 16 != 0)
    refuse("attention: head_dim", "a multiple of 16 up to " + std::to_string(kLargestHead),
           std::to_string(op.head_dim));
  if (op.heads < 1 || op.key_heads < 1 || op.heads > 4096 || op.heads % op.key_heads != 0)
    refuse("attention: heads", "a multiple of the key heads",
           std::to_string(op.heads) + " and " + std::to_string(op.key_heads));
}

void expect_rotary(const AttentionOp& op, const Plan& plan) {
  if (op.rotary >= static_cast<int>(plan.rotaries.size()))
    refuse("attention: rotary", "a table of angles", std::to_string(op.rotary));
  if (op.rotary < 0) return;
  const size_t angles = 2 * plan.rotaries[static_cast<size_t>(op.rotary)].inverse_frequency.size();
  if (angles > static_cast<size_t>(op.head_dim))
    refuse("attention: rotary", "at most head_dim angles", "more");
}

}  // namespace

void admit(const AttentionOp& op, Plan& plan) {
  plan.expect_inside("attention");
  expect_heads(op);
  expect_finite("attention: scale", op.scale);
  if (op.window < 0) refuse("attention: window", "0 or more", std::to_string(op.window));
  const int64_t keys = int64_t{op.key_heads} * op.head_dim, queries = int64_t{op.heads} * op.head_dim;
  expect_part(plan, "query", op.query, queries);
  expect_part(plan, "key", op.key, keys);
  expect_part(plan, "value", op.value, keys);
  plan.expect_width("attention: output", op.output, queries);
  for (const HeadPart& part : {op.query, op.key, op.value})
    if (part.buffer == op.output) refuse("attention: output", "a buffer of its own", "an input");
  if (op.has_norms) {
    expect_norm("attention: query norm", op.query_norm);
    expect_norm("attention: key norm", op.key_norm);
  }
  expect_rotary(op, plan);
  expect_equal("attention: layer", plan.layers, op.layer);
  if (plan.layers != 0) {
    expect_equal("attention: key heads of all layers", plan.key_heads, op.key_heads);
    expect_equal("attention: head_dim of all layers", plan.head_dim, op.head_dim);
  }
  plan.layers += 1, plan.key_heads = op.key_heads, plan.head_dim = op.head_dim;
}

namespace {

// Norm and rotation of one head of one row, in place.
void turn(const AttentionOp& op, const StepContext& step, int64_t t, const RowNorm& norm, float* x) {
  if (op.has_norms) step.table.norm(norm, x, op.head_dim, x);
  if (op.rotary < 0) return;
  const size_t half = step.plan.rotaries[static_cast<size_t>(op.rotary)].inverse_frequency.size();
  step.table.rotate(x, step.angles(op.rotary, t), static_cast<int64_t>(half));
}

void append(const AttentionOp& op, const StepContext& step, int64_t t, int key_head, const float* key) {
  const int64_t position = step.position(t);
  const CacheLayout& layout = step.cache.layout();
  uint8_t* block = step.cache.base() + step.run_of(t).blocks[position / kCacheTokens] * layout.block_bytes() +
                   layout.offset(op.layer, key_head);
  const float* value = step.row(op.value.buffer, t) + op.value.offset + int64_t{key_head} * op.head_dim;
  step.table.append(layout.head, key, value, static_cast<int>(position % kCacheTokens), block);
}

void turn_and_append(const AttentionOp& op, const StepContext& step, int member) {
  const int64_t heads = op.heads + op.key_heads, units = step.input.tokens * heads;
  const int64_t members = step.team.size();
  for (int64_t unit = units * member / members; unit < units * (member + 1) / members; ++unit) {
    const int64_t t = unit / heads, head = unit % heads, key_head = head - op.heads;
    const bool is_key = key_head >= 0;
    const HeadPart& part = is_key ? op.key : op.query;
    float* x = step.row(part.buffer, t) + part.offset + (is_key ? key_head : head) * op.head_dim;
    turn(op, step, t, is_key ? op.key_norm : op.query_norm, x);
    if (is_key) append(op, step, t, static_cast<int>(key_head), x);
  }
}

// The tasks of one member, claimed one after the other. A task: up to kQueryRows rows (token, query head) of one sequence
// that share a head of keys.
class Tasks {
 public:
  Tasks(const AttentionOp& op, const StepContext& step)
      : op_(op), step_(step), run_(step.input.runs->begin()) {}

  // The rows of the next task; none when there are no more.
  void take(AttentionRows& rows) {
    const int64_t task = step_.team.claim(), group = op_.heads / op_.key_heads;
    rows.rows = 0;
    for (; run_ != step_.input.runs->end(); ++run_) {
      const int64_t parts = (run_->count * group + kQueryRows - 1) / kQueryRows,
                    tasks = parts * op_.key_heads;
      if (task < begin_ + tasks) {
        // The last rows see the most keys: they come first.
        const int64_t part = parts - 1 - (task - begin_) / op_.key_heads;
        return fill(rows, (task - begin_) % op_.key_heads, group, part * kQueryRows);
      }
      begin_ += tasks;
    }
  }

 private:
  void fill(AttentionRows& rows, int64_t key_head, int64_t group, int64_t first) const {
    const CacheLayout& layout = step_.cache.layout();
    rows.base = step_.cache.base() + layout.offset(op_.layer, static_cast<int>(key_head));
    rows.blocks = run_->blocks;
    const int64_t end = std::min(first + kQueryRows, run_->count * group);
    for (int64_t i = first; i < end; ++i, ++rows.rows) {
      const int64_t token = i / group, head = key_head * group + i % group, at = run_->first_row + token;
      const int64_t seen = run_->position + token + 1;
      rows.query[rows.rows] = step_.row(op_.query.buffer, at) + op_.query.offset + head * op_.head_dim;
      rows.out[rows.rows] = step_.row(op_.output, at) + head * op_.head_dim;
      rows.last[rows.rows] = seen;
      rows.first[rows.rows] = op_.window > 0 ? std::max<int64_t>(0, seen - op_.window) : 0;
    }
  }

  const AttentionOp& op_;
  const StepContext& step_;
  std::vector<Run>::const_iterator run_;
  int64_t begin_ = 0;  // first task of the run
};

// Each task is told the keys of the next one, so that they are asked for early.
void attend(const AttentionOp& op, const StepContext& step) {
  const CacheLayout& layout = step.cache.layout();
  Tasks tasks(op, step);
  AttentionRows two[2];
  for (AttentionRows& rows : two) {
    rows.scale = op.scale;
    rows.shape = layout.head;
    rows.block_bytes = layout.block_bytes();
  }
  tasks.take(two[0]);
  for (int now = 0; two[now].rows > 0; now = 1 - now) {
    AttentionRows& next = two[1 - now];
    tasks.take(next);
    const bool more = next.rows > 0;
    two[now].next = more ? next.base + next.blocks[next.first[0] / kCacheTokens] * next.block_bytes : nullptr;
    step.table.attend(two[now]);
  }
}

}  // namespace

Work ready(const AttentionOp& op, StepContext& step) {
  return [&op, &step](int member) {
    turn_and_append(op, step, member);
    step.team.barrier();
    attend(op, step);
  };
}

}  // namespace gossamer
