#include "engine/step.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <numeric>

namespace gossamer {
namespace {

// Up to so many rows every member prepares the activations for itself: cheaper than another barrier.
constexpr int64_t kReplicatedRows = 16;
// Columns that share a scale of int8 activations. With 64, perplexity rises by 0.5 to 0.6 %; with 32 by 0.3 to 0.4 %.
constexpr int kScaleColumns = 32;
constexpr int64_t kTasksPerMember = 8;
constexpr int64_t kLargestTask = 32;  // strips

// The numbers of rows from which on activations may take another form, and which of them holds.
constexpr int64_t kFormRows[] = {1, 2, kFewestTiled, kFewestTiledNM};
size_t form_of(int64_t rows) {
  return static_cast<size_t>(std::upper_bound(kFormRows, std::end(kFormRows), rows) - kFormRows - 1);
}

int64_t padded(int64_t width) { return (width + 63) / 64 * 64; }

}  // namespace

// ---- before the first step ------------------------------------------------------------------------------------------

Step::Step(const Plan& plan, Cache& cache, Team& team, bool int8, int64_t max_tokens)
    : plan_(plan), cache_(cache), team_(team), table_(active_table()), int8_(int8) {
  const int64_t all = std::accumulate(plan.widths.begin(), plan.widths.end(), int64_t{0},
                                      [](int64_t sum, int64_t width) { return sum + padded(width); });
  buffer_pages_ = Pages(all * max_tokens * 4);
  float* next = buffer_pages_.get<float>();
  for (int64_t width : plan.widths) {
    buffers_.push_back(next);
    next += padded(width) * max_tokens;
  }
  angle_pages_ = Pages(static_cast<int64_t>(plan.rotaries.size()) * kLargestHead * max_tokens * 4);
  for (size_t i = 0; i < plan.rotaries.size(); ++i)
    angles_.push_back(angle_pages_.get<float>() + static_cast<int64_t>(i) * kLargestHead * max_tokens);
  for (const Op& op : plan.ops) {
    const auto* linears = std::get_if<LinearsOp>(&op);
    compiled_.push_back(linears != nullptr ? compile(*linears) : Compiled{});
  }
  shared_ = make_room(max_tokens);
  for (int member = 0; member < team.size(); ++member)
    private_.push_back(make_room(std::min(kReplicatedRows, max_tokens)));
  run_of_.resize(static_cast<size_t>(max_tokens));
  profile_.resize(plan.ops.size());
}

Step::Room Step::make_room(int64_t tokens) const {
  int64_t width = padded(plan_.widths[0]);
  for (const Op& op : plan_.ops)
    if (const auto* linears = std::get_if<LinearsOp>(&op))
      width = std::max(width, padded(plan_.widths[static_cast<size_t>(linears->input)]));
  const int64_t floats = tokens * width * 4, codes = tokens * width, folds = padded(tokens * width / 32 * 4);
  Room room;
  room.pages = Pages(floats + static_cast<int64_t>(kLayouts) * (floats + codes + 3 * folds + width * 4));
  uint8_t* next = room.pages.get<uint8_t>();
  const auto take = [&next](int64_t bytes) {
    uint8_t* start = next;
    next += bytes;
    return start;
  };
  room.rows = reinterpret_cast<float*>(take(floats));
  for (ActivationMemory& memory : room.memory) {
    memory.x = reinterpret_cast<float*>(take(floats));
    memory.codes = take(codes);
    memory.scales = reinterpret_cast<float*>(take(folds));
    memory.starts = reinterpret_cast<int32_t*>(take(folds));
    memory.sums = reinterpret_cast<float*>(take(folds));
    memory.group_sums = reinterpret_cast<float*>(take(width * 4));
  }
  return room;
}

Step::Compiled Step::compile(const LinearsOp& op) const {
  Compiled compiled;
  static_assert(std::size(kFormRows) == kForms);
  for (size_t form = 0; form < kForms; ++form)
    for (const Linear& linear : op.linears) {
      const ActivationLayout layout =
          layout_for(table_, linear.weight, kFormRows[form], int8_, kScaleColumns);
      auto& layouts = compiled.layouts[form];
      const size_t at =
          static_cast<size_t>(std::find(layouts.begin(), layouts.end(), layout) - layouts.begin());
      if (at == layouts.size()) layouts.push_back(layout);
      compiled.layout_of[form].push_back(at);
    }
  // The two matrices of a gate are cut at the same strips, all others one after the other.
  const size_t cut = op.then == Then::gate ? 1 : op.linears.size();
  compiled.strips_before.push_back(0);
  int64_t bytes = 0;
  for (size_t i = 0; i < cut; ++i) {
    const int64_t strips = shape_of(op.linears[i].weight).strips();
    compiled.strips_before.push_back(compiled.strips_before.back() + strips);
    bytes += bytes_before(op.linears[i].weight, strips);
  }
  int64_t seen = 0;
  compiled.share.push_back(0);
  for (size_t i = 0; i < cut; ++i) {
    const int64_t strips = shape_of(op.linears[i].weight).strips();
    for (int64_t strip = 0; strip < strips; ++strip) {
      const int64_t at = seen + bytes_before(op.linears[i].weight, strip);
      const int64_t members = static_cast<int64_t>(compiled.share.size());
      if (members < team_.size() && at * team_.size() >= bytes * members)
        compiled.share.push_back(compiled.strips_before[i] + strip);
    }
    seen += bytes_before(op.linears[i].weight, strips);
  }
  compiled.share.resize(static_cast<size_t>(team_.size()) + 1, compiled.strips_before.back());
  return compiled;
}

// ---- a step ---------------------------------------------------------------------------------------------------------

void Step::run(const StepInput& input) {
  input_ = input;
  for (const Run& run : *input.runs) std::fill_n(run_of_.begin() + run.first_row, run.count, &run);
  team_.run([this](int member) { work(member); });
}

std::vector<double> Step::take_profile() {
  std::vector<double> seconds(profile_.size());
  seconds.swap(profile_);
  return seconds;
}

void Step::work(int member) {
  using Clock = std::chrono::steady_clock;
  for (size_t index = 0; index < plan_.ops.size(); ++index) {
    const auto* linears = std::get_if<LinearsOp>(&plan_.ops[index]);
    if (linears != nullptr && linears->head && input_.wanted->empty()) continue;
    if (!profile_on_ || member != 0) {
      run_op(member, index);
      continue;
    }
    const auto start = Clock::now();
    run_op(member, index);
    profile_[index] += std::chrono::duration<double>(Clock::now() - start).count();
  }
}

void Step::run_op(int member, size_t index) {
  const Op& op = plan_.ops[index];
  if (const auto* linears_op = std::get_if<LinearsOp>(&op)) {
    linears(member, *linears_op, compiled_[index]);
  } else if (const auto* attention = std::get_if<AttentionOp>(&op)) {
    rotate_and_append(member, *attention);
    team_.barrier();
    attend(*attention);
  } else if (const auto* norm = std::get_if<AddNormOp>(&op)) {
    add_norm(member, *norm);
  } else if (const auto* gate_op = std::get_if<GateOp>(&op)) {
    gate(member, *gate_op);
  } else {
    embed(member, std::get<EmbedOp>(op));
  }
  team_.barrier();
}

void Step::embed(int member, const EmbedOp& op) {
  const int64_t width = plan_.widths[0];
  for (int64_t t = member; t < input_.tokens; t += team_.size()) {
    const Run& run = *run_of_[static_cast<size_t>(t)];
    const int64_t position = run.position + t - run.first_row;
    float* x = row(0, t);
    read_row(op.table, input_.ids[t], x);
    if (op.scale != 1)
      for (int64_t i = 0; i < width; ++i) x[i] *= op.scale;
    if (op.has_positions) {
      float* scratch = private_[static_cast<size_t>(member)].rows;
      read_row(op.positions, position, scratch);
      table_.add(scratch, width, x);
    }
    for (size_t r = 0; r < plan_.rotaries.size(); ++r) {
      const Rotary& rotary = plan_.rotaries[r];
      const size_t half = rotary.inverse_frequency.size();
      float* cosine = angles_[r] + t * kLargestHead;
      for (size_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(position) * rotary.inverse_frequency[i];
        cosine[i] = std::cos(angle) * rotary.scaling;
        cosine[half + i] = std::sin(angle) * rotary.scaling;
      }
    }
  }
}

// Each member takes a run of columns of all rows.
void Step::gate(int member, const GateOp& op) {
  const int64_t width = plan_.widths[static_cast<size_t>(op.target)], pieces = (width + 15) / 16,
                members = team_.size();
  const int64_t from = pieces * member / members * 16,
                count = std::min(pieces * (member + 1) / members * 16, width) - from;
  for (int64_t t = 0; t < input_.tokens && count > 0; ++t)
    table_.gate(op.gate, row(op.first, t) + from, op.second < 0 ? nullptr : row(op.second, t) + from, count,
                row(op.target, t) + from);
}

void Step::add_norm(int member, const AddNormOp& op) {
  const int64_t width = plan_.widths[static_cast<size_t>(op.input)];
  float* scratch = private_[static_cast<size_t>(member)].rows;
  for (int64_t t = member; t < input_.tokens; t += team_.size()) {
    table_.norm(op.norm, row(op.input, t), width, scratch);
    table_.add(scratch, width, row(op.target, t));
  }
}

// ---- linears --------------------------------------------------------------------------------------------------------

void Step::linears(int member, const LinearsOp& op, const Compiled& compiled) {
  const int64_t rows = op.head ? static_cast<int64_t>(input_.wanted->size()) : input_.tokens;
  const int64_t strips = compiled.strips_before.back(), members = team_.size();
  if (rows <= kReplicatedRows) {
    const int64_t first = compiled.share[static_cast<size_t>(member)],
                  last = compiled.share[static_cast<size_t>(member) + 1];
    if (first == last) return;
    Room& room = private_[static_cast<size_t>(member)];
    prepare(op, compiled, rows, 0, rows, room);
    multiply(op, compiled, take_prepared(op, compiled, rows, room), rows, first, last);
    return;
  }
  const int64_t pack = pack_tokens(table_);
  for (int64_t from; (from = team_.claim() * pack) < rows;)
    prepare(op, compiled, rows, from, std::min(rows, from + pack), shared_);
  team_.barrier();
  const Prepared prepared = take_prepared(op, compiled, rows, shared_);
  const int64_t size = std::clamp<int64_t>(strips / (members * kTasksPerMember), 1, kLargestTask);
  for (int64_t first; (first = team_.claim() * size) < strips;)
    multiply(op, compiled, prepared, rows, first, std::min(first + size, strips));
}

const float* Step::rows_of(const LinearsOp& op, const Room& room) const {
  return op.has_norm || op.head ? room.rows : row(op.input, 0);
}

// Rows [first, last) of the input, normed, in every form that a matrix of the op wants.
void Step::prepare(const LinearsOp& op, const Compiled& compiled, int64_t rows, int64_t first, int64_t last,
                   Room& room) const {
  const int64_t width = plan_.widths[static_cast<size_t>(op.input)];
  if (op.has_norm || op.head)
    for (int64_t t = first; t < last; ++t) {
      const float* x = row(op.input, op.head ? (*input_.wanted)[static_cast<size_t>(t)] : t);
      if (op.has_norm) table_.norm(op.norm, x, width, room.rows + t * width);
      else std::copy_n(x, width, room.rows + t * width);
    }
  const auto& layouts = compiled.layouts[form_of(rows)];
  for (size_t i = 0; i < layouts.size(); ++i)
    prepare_tokens(table_, layouts[i], rows_of(op, room), rows, first, last, room.memory[i]);
}

Step::Prepared Step::take_prepared(const LinearsOp& op, const Compiled& compiled, int64_t rows,
                                   Room& room) const {
  Prepared result;
  const auto& layouts = compiled.layouts[form_of(rows)];
  for (size_t i = 0; i < layouts.size(); ++i)
    result[i] = prepared(layouts[i], rows_of(op, room), rows, room.memory[i]);
  return result;
}

float* Step::output_of(const LinearsOp& op, const Linear& linear) const {
  return op.head ? input_.logits : row(linear.output, 0);
}

void Step::multiply(const LinearsOp& op, const Compiled& compiled, const Prepared& prepared, int64_t rows,
                    int64_t first, int64_t last) const {
  const auto& layout_of = compiled.layout_of[form_of(rows)];
  const auto& layouts = compiled.layouts[form_of(rows)];
  for (size_t i = 0; i < op.linears.size(); ++i) {
    const Linear& linear = op.linears[i];
    const int64_t before = op.then == Then::gate ? 0 : compiled.strips_before[i];
    const int64_t strips = shape_of(linear.weight).strips();
    const int64_t begin = std::max<int64_t>(first - before, 0), end = std::min(last - before, strips);
    if (begin >= end) continue;
    float* y = output_of(op, linear);
    const size_t layout = layout_of[i];
    multiply_strips(table_, linear.weight, layouts[layout], prepared[layout], y, begin, end);
    if (linear.bias == nullptr) continue;
    const int64_t outputs = shape_of(linear.weight).rows, from = begin * kStripRows;
    const int64_t count = std::min(end * kStripRows, outputs) - from;
    for (int64_t t = 0; t < rows; ++t) table_.add(linear.bias + from, count, y + t * outputs + from);
  }
  if (op.then != Then::store) finish(op, rows, first, last);
}

void Step::finish(const LinearsOp& op, int64_t rows, int64_t first, int64_t last) const {
  const int64_t outputs = shape_of(op.linears[0].weight).rows, from = first * kStripRows;
  const int64_t count = std::min(last * kStripRows, outputs) - from;
  for (int64_t t = 0; t < rows; ++t) {
    const float* y = row(op.linears[0].output, t) + from;
    float* target = row(op.target, t) + from;
    if (op.then == Then::add) table_.add(y, count, target);
    else
      table_.gate(op.gate, y, op.linears.size() > 1 ? row(op.linears[1].output, t) + from : nullptr, count,
                  target);
  }
}

// ---- attention ------------------------------------------------------------------------------------------------------

void Step::rotate_and_append(int member, const AttentionOp& op) {
  const int64_t per_token = op.heads + op.key_heads, units = input_.tokens * per_token;
  const int64_t size = op.head_dim;
  for (int64_t unit = units * member / team_.size(); unit < units * (member + 1) / team_.size(); ++unit) {
    const int64_t t = unit / per_token, head = unit % per_token;
    const bool is_key = head >= op.heads;
    const HeadPart& part = is_key ? op.key : op.query;
    float* x = row(part.buffer, t) + part.offset + (is_key ? head - op.heads : head) * size;
    if (op.has_norms) table_.norm(is_key ? op.key_norm : op.query_norm, x, size, x);
    if (op.rotary >= 0) {
      const size_t rotary = static_cast<size_t>(op.rotary);
      const int64_t half = static_cast<int64_t>(plan_.rotaries[rotary].inverse_frequency.size());
      table_.rotate(x, angles_[rotary] + t * kLargestHead, half);
    }
    if (!is_key) continue;
    const Run& run = *run_of_[static_cast<size_t>(t)];
    const int64_t position = run.position + t - run.first_row;
    const CacheLayout& layout = cache_.layout();
    uint8_t* block = cache_.base() + run.blocks[position / kCacheTokens] * layout.block_bytes() +
                     layout.offset(op.layer, static_cast<int>(head - op.heads));
    const float* value = row(op.value.buffer, t) + op.value.offset + (head - op.heads) * size;
    table_.append(layout.head, x, value, static_cast<int>(position % kCacheTokens), block);
  }
}

// One task: up to kQueryRows rows (token, query head) of one sequence that share a head of keys.
void Step::attend(const AttentionOp& op) {
  const CacheLayout& layout = cache_.layout();
  const int64_t group = op.heads / op.key_heads;
  auto run = input_.runs->begin();
  int64_t begin = 0;  // first task of the run
  // The rows of the next task; none when there are no more.
  const auto take = [&](AttentionRows& rows) {
    const int64_t task = team_.claim();
    rows.rows = 0;
    for (; run != input_.runs->end(); ++run) {
      const int64_t parts = (run->count * group + kQueryRows - 1) / kQueryRows, tasks = parts * op.key_heads;
      if (task >= begin + tasks) {
        begin += tasks;
        continue;
      }
      const int64_t key_head = (task - begin) % op.key_heads,
                    part = parts - 1 - (task - begin) / op.key_heads;
      rows.base = cache_.base() + layout.offset(op.layer, static_cast<int>(key_head));
      rows.blocks = run->blocks;
      const int64_t end = std::min((part + 1) * kQueryRows, run->count * group);
      for (int64_t i = part * kQueryRows; i < end; ++i, ++rows.rows) {
        const int64_t token = i / group, head = key_head * group + i % group, at = run->first_row + token;
        rows.query[rows.rows] = row(op.query.buffer, at) + op.query.offset + head * op.head_dim;
        rows.out[rows.rows] = row(op.output, at) + head * op.head_dim;
        rows.last[rows.rows] = run->position + token + 1;
        rows.first[rows.rows] =
            op.window > 0 ? std::max<int64_t>(0, run->position + token + 1 - op.window) : 0;
      }
      return;
    }
  };
  AttentionRows two[2];
  for (AttentionRows& rows : two)
    rows.scale = op.scale, rows.shape = layout.head, rows.block_bytes = layout.block_bytes();
  take(two[0]);
  for (int now = 0; two[now].rows > 0; now = 1 - now) {
    AttentionRows& next = two[1 - now];
    take(next);
    two[now].next =
        next.rows > 0 ? next.base + next.blocks[next.first[0] / kCacheTokens] * next.block_bytes : nullptr;
    table_.attend(two[now]);
  }
}

}  // namespace gossamer
