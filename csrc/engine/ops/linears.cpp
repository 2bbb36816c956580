#include "engine/ops/linears.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "engine/context.h"
#include "formats/validate.h"
#include "kernels/activations.h"

namespace gossamer {
namespace {

// Up to so many rows every member prepares the activations for itself: cheaper than another barrier.
constexpr int64_t kReplicatedRows = 16;
// Columns that share a scale of int8 activations. With 64, perplexity rises by 0.5 to 0.6 %; with 32 by 0.3 to 0.4 %.
constexpr int kScaleColumns = 32;
constexpr int64_t kTasksPerMember = 8;
constexpr int64_t kLargestTask = 32;  // strips

// The numbers of rows from which on activations may take another form, and which of them holds. (Tiles would be another.)
constexpr int64_t kFormRows[] = {1, 2, kMostShuffled + 1};
static_assert(kScaleColumns < kTileColumns);
size_t form_of(int64_t rows) {
  return static_cast<size_t>(std::upper_bound(kFormRows, std::end(kFormRows), rows) - kFormRows - 1);
}

// The forms of activations that the matrices of an op want, each once, and which of them each matrix takes.
struct Forms {
  std::vector<ActivationLayout> layouts;
  std::vector<size_t> of_linear;
};

Forms forms_for(const LinearsOp& op, const StepContext& step, int64_t rows) {
  Forms forms;
  for (const Linear& linear : op.linears) {
    const ActivationLayout layout = layout_for(step.table, linear.weight, rows, step.int8, kScaleColumns);
    const auto found = std::find(forms.layouts.begin(), forms.layouts.end(), layout);
    forms.of_linear.push_back(static_cast<size_t>(found - forms.layouts.begin()));
    if (found == forms.layouts.end()) forms.layouts.push_back(layout);
  }
  return forms;
}

class Linears {
 public:
  Linears(const LinearsOp& op, StepContext& step);
  void run(int member) const;

 private:
  using Prepared = std::array<Activations, kMaxLinears>;

  int64_t norm_bytes(int64_t rows) const { return padded(rows * width_ * 4); }
  int64_t room_bytes(int64_t rows) const;
  void share_out();

  void run_alone(int member, int64_t rows) const;
  void run_together(int64_t rows) const;
  void prepare(uint8_t* room, int64_t rows, int64_t first, int64_t last) const;
  Prepared prepared_in(uint8_t* room, int64_t rows) const;
  void multiply(const Prepared& prepared, int64_t rows, int64_t first, int64_t last) const;
  void finish(int64_t rows, int64_t first, int64_t last) const;

  // In a room lie the rows after the norm, or those whose logits are wanted, and then the activations in each form.
  bool copies() const { return op_.has_norm || op_.head; }
  const float* rows_in(const uint8_t* room) const {
    return copies() ? reinterpret_cast<const float*>(room) : step_.row(op_.input, 0);
  }
  // Calls f(number, layout, memory).
  template <class F> void for_forms(uint8_t* room, int64_t rows, const F& f) const {
    uint8_t* next = room + (copies() ? norm_bytes(rows) : 0);
    const std::vector<ActivationLayout>& layouts = forms_[form_of(rows)].layouts;
    for (size_t i = 0; i < layouts.size(); ++i) {
      const ActivationRoom activation(layouts[i], rows);
      f(i, layouts[i], activation.at(next));
      next += activation.bytes;
    }
  }

  const LinearsOp& op_;
  const StepContext& step_;
  const int64_t width_;
  std::array<Forms, std::size(kFormRows)> forms_;  // by how many rows there are
  std::vector<int64_t> strips_before_;             // of each linear, and in all
  std::vector<int64_t> share_;                     // first strip of each member
};

// ---- before the first step ----

Linears::Linears(const LinearsOp& op, StepContext& step)
    : op_(op), step_(step), width_(step.plan.width(op.input)) {
  for (size_t form = 0; form < forms_.size(); ++form) forms_[form] = forms_for(op, step, kFormRows[form]);
  share_out();
  step.want_own(room_bytes(std::min(kReplicatedRows, step.max_tokens)));
  step.want_shared(room_bytes(step.max_tokens));
}

// Of all steps with up to so many rows.
int64_t Linears::room_bytes(int64_t rows) const {
  int64_t largest = 0;
  for (size_t form = 0; form < forms_.size() && kFormRows[form] <= rows; ++form) {
    const int64_t most = form + 1 < forms_.size() ? std::min(rows, kFormRows[form + 1] - 1) : rows;
    int64_t bytes = norm_bytes(most);
    for (const ActivationLayout& layout : forms_[form].layouts) bytes += ActivationRoom(layout, most).bytes;
    largest = std::max(largest, bytes);
  }
  return largest;
}

// Each member multiplies strips of about the same number of bytes. The two matrices of a gate are cut at the same strips,
// all others one after the other.
void Linears::share_out() {
  const size_t cut = op_.then == Then::gate ? 1 : op_.linears.size();
  const int64_t members = step_.team.size();
  int64_t bytes = 0, before = 0;
  strips_before_.push_back(0);
  for (size_t i = 0; i < cut; ++i) {
    const int64_t strips = shape_of(op_.linears[i].weight).strips();
    strips_before_.push_back(strips_before_.back() + strips);
    bytes += bytes_before(op_.linears[i].weight, strips);
  }
  share_.push_back(0);
  for (size_t i = 0; i < cut; ++i) {
    const MatrixView& weight = op_.linears[i].weight;
    for (int64_t strip = 0; strip < shape_of(weight).strips(); ++strip) {
      const int64_t shares = static_cast<int64_t>(share_.size());
      const int64_t at = before + bytes_before(weight, strip);
      if (shares < members && at * members >= bytes * shares) share_.push_back(strips_before_[i] + strip);
    }
    before += bytes_before(weight, shape_of(weight).strips());
  }
  share_.resize(static_cast<size_t>(members) + 1, strips_before_.back());
}

// ---- a step ----

void Linears::run(int member) const {
  const int64_t rows = op_.head ? static_cast<int64_t>(step_.input.wanted->size()) : step_.input.tokens;
  if (rows == 0) return;
  if (rows <= kReplicatedRows) run_alone(member, rows);
  else run_together(rows);
}

void Linears::run_alone(int member, int64_t rows) const {
  const int64_t first = share_[static_cast<size_t>(member)], last = share_[static_cast<size_t>(member) + 1];
  if (first == last) return;
  uint8_t* room = step_.own<uint8_t>(member);
  prepare(room, rows, 0, rows);
  multiply(prepared_in(room, rows), rows, first, last);
}

void Linears::run_together(int64_t rows) const {
  Team& team = step_.team;
  const int64_t strips = strips_before_.back(), pack = pack_tokens(step_.table);
  for (int64_t from; (from = team.claim() * pack) < rows;)
    prepare(step_.shared(), rows, from, std::min(rows, from + pack));
  team.barrier();
  const Prepared prepared = prepared_in(step_.shared(), rows);
  const int64_t size = std::clamp<int64_t>(strips / (team.size() * kTasksPerMember), 1, kLargestTask);
  for (int64_t first; (first = team.claim() * size) < strips;)
    multiply(prepared, rows, first, std::min(first + size, strips));
}

// Rows [first, last) of the input, normed, in every form that a matrix of the op wants.
void Linears::prepare(uint8_t* room, int64_t rows, int64_t first, int64_t last) const {
  for (int64_t t = first; t < last && copies(); ++t) {
    const float* x = step_.row(op_.input, op_.head ? (*step_.input.wanted)[static_cast<size_t>(t)] : t);
    float* copy = reinterpret_cast<float*>(room) + t * width_;
    if (op_.has_norm) step_.table.norm(op_.norm, x, width_, copy);
    else std::copy_n(x, width_, copy);
  }
  for_forms(room, rows, [&](size_t, const ActivationLayout& layout, const ActivationMemory& memory) {
    prepare_tokens(step_.table, layout, rows_in(room), rows, first, last, memory);
  });
}

Linears::Prepared Linears::prepared_in(uint8_t* room, int64_t rows) const {
  Prepared result;
  for_forms(room, rows, [&](size_t i, const ActivationLayout& layout, const ActivationMemory& memory) {
    result[i] = prepared(layout, rows_in(room), rows, memory);
  });
  return result;
}

void Linears::multiply(const Prepared& prepared, int64_t rows, int64_t first, int64_t last) const {
  const Forms& forms = forms_[form_of(rows)];
  for (size_t i = 0; i < op_.linears.size(); ++i) {
    const Linear& linear = op_.linears[i];
    const Shape& shape = shape_of(linear.weight);
    const int64_t before = op_.then == Then::gate ? 0 : strips_before_[i];
    const int64_t begin = std::max<int64_t>(first - before, 0), end = std::min(last - before, shape.strips());
    if (begin >= end) continue;
    float* y = op_.head ? step_.input.logits : step_.row(linear.output, 0);
    const size_t form = forms.of_linear[i];
    multiply_strips(step_.table, linear.weight, forms.layouts[form], prepared[form], y, begin, end);
    if (linear.bias == nullptr) continue;
    const int64_t from = begin * kStripRows, count = std::min(end * kStripRows, shape.rows) - from;
    for (int64_t t = 0; t < rows; ++t) step_.table.add(linear.bias + from, count, y + t * shape.rows + from);
  }
  if (op_.then != Then::store) finish(rows, first, last);
}

void Linears::finish(int64_t rows, int64_t first, int64_t last) const {
  const int64_t outputs = shape_of(op_.linears[0].weight).rows, from = first * kStripRows;
  const int64_t count = std::min(last * kStripRows, outputs) - from;
  const bool two = op_.linears.size() > 1;
  for (int64_t t = 0; t < rows; ++t) {
    const float* y = step_.row(op_.linears[0].output, t) + from;
    const float* second = two ? step_.row(op_.linears[1].output, t) + from : nullptr;
    float* target = step_.row(op_.target, t) + from;
    if (op_.then == Then::add) step_.table.add(y, count, target);
    else step_.table.gate(op_.gate, y, second, count, target);
  }
}

void expect_linear(const LinearsOp& op, const Linear& linear, int64_t input, Plan& plan) {
  const Shape& shape = shape_of(linear.weight);
  expect_equal("linears: inputs of the weight", input, shape.columns);
  if (op.head) plan.outputs = shape.rows;
  else plan.expect_width("linears: output", linear.output, shape.rows);
  if (!op.head && linear.output == op.input)
    refuse("linears: output", "another buffer than the input", "the same");
  for (const Linear& other : op.linears)
    if (&other != &linear && other.output == linear.output)
      refuse("linears: outputs", "different buffers", "the same");
}

}  // namespace

void admit(const LinearsOp& op, Plan& plan) {
  plan.expect_inside("linears");
  const int64_t input = plan.width_of("linears: input", op.input);
  if (op.has_norm) expect_norm("linears: norm", op.norm);
  const size_t count = op.linears.size();
  if (count < 1 || count > kMaxLinears)
    refuse("linears", "1 to " + std::to_string(kMaxLinears), std::to_string(count));
  if (op.then == Then::add && count != 1) refuse("linears to be added", "1", std::to_string(count));
  if (op.then == Then::gate && count > 2) refuse("linears of a gate", "1 or 2", std::to_string(count));
  if (op.head && (op.then != Then::store || count != 1)) refuse("head", "one linear", "another form");
  for (const Linear& linear : op.linears) expect_linear(op, linear, input, plan);
  if (op.then == Then::store) return;
  const int64_t outputs = shape_of(op.linears[0].weight).rows;
  plan.expect_width("linears: target", op.target, outputs);
  expect_equal("linears: outputs", outputs, shape_of(op.linears.back().weight).rows);
  if (op.target == op.input) refuse("linears: target", "another buffer than the input", "the same");
}

Work ready(const LinearsOp& op, StepContext& step) {
  return [linears = Linears(op, step)](int member) { linears.run(member); };
}

}  // namespace gossamer
