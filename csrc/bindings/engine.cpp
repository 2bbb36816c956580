// Plan and Engine as Python classes.
#include <nanobind/stl/tuple.h>

#include "bindings/matrices.h"
#include "engine/engine.h"

using namespace nanobind::literals;

namespace gossamer {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Tokens = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OptionalFloats = std::optional<Floats>;

// (weight, bias, epsilon, centred)
using NormArguments = std::tuple<Floats, OptionalFloats, float, bool>;
// (matrix, bias, output buffer)
using LinearArguments = std::tuple<nb::object, OptionalFloats, int>;
using PartArguments = std::pair<int, int64_t>;

// A plan, and everything that its pointers point into.
struct PythonPlan {
  Plan plan;
  std::vector<nb::object> matrices;
  std::vector<Floats> vectors;

  PythonPlan(int64_t hidden_size, int64_t max_positions) {
    plan.add_buffer(hidden_size);
    plan.max_positions = max_positions;
  }

  MatrixView matrix(nb::handle object) {
    MatrixView view;
    if (nb::isinstance<IntegerMatrix>(object)) view = nb::cast<IntegerMatrix&>(object).view;
    else if (nb::isinstance<BitmaskMatrix>(object)) view = nb::cast<BitmaskMatrix&>(object).view;
    else if (nb::isinstance<NMMatrix>(object)) view = nb::cast<NMMatrix&>(object).view;
    else if (nb::isinstance<DenseMatrix>(object)) view = nb::cast<DenseMatrix&>(object).view;
    else refuse("weight", "a matrix of this module", "something else");
    matrices.push_back(nb::borrow(object));
    return view;
  }

  const float* floats(const char* what, const OptionalFloats& array, int64_t size) {
    if (!array) return nullptr;
    if (static_cast<int64_t>(array->size()) != size)
      refuse(what, std::to_string(size) + " floats", std::to_string(array->size()));
    vectors.push_back(*array);
    return array->data();
  }

  RowNorm norm(const NormArguments& arguments, int64_t size) {
    const auto& [weight, bias, epsilon, centred] = arguments;
    RowNorm norm{.weight = floats("norm: weight", weight, size), .bias = floats("norm: bias", bias, size)};
    norm.epsilon = epsilon, norm.centred = centred;
    return norm;
  }

  int64_t width(int buffer) const {
    if (buffer < 0 || buffer >= static_cast<int>(plan.widths.size()))
      refuse("buffer", "one of the plan", std::to_string(buffer));
    return plan.widths[static_cast<size_t>(buffer)];
  }

  void embed(nb::object table, float scale, std::optional<nb::object> positions) {
    EmbedOp op{
        .table = matrix(table), .scale = scale, .has_positions = positions.has_value(), .positions = {}};
    if (positions) op.positions = matrix(*positions);
    plan.add(std::move(op));
  }

  LinearsOp linears_op(int input, const std::vector<LinearArguments>& linears,
                       const std::optional<NormArguments>& with_norm) {
    LinearsOp op;
    op.input = input;
    op.has_norm = with_norm.has_value();
    if (with_norm) op.norm = norm(*with_norm, width(input));
    for (const auto& [weight, bias, output] : linears) {
      Linear linear{.weight = matrix(weight), .bias = nullptr, .output = output};
      linear.bias = floats("bias", bias, shape_of(linear.weight).rows);
      op.linears.push_back(linear);
    }
    return op;
  }

  void linears(int input, const std::vector<LinearArguments>& list, std::optional<NormArguments> with_norm,
               const std::string& then, const std::string& gate, int target) {
    LinearsOp op = linears_op(input, list, with_norm);
    op.then = then == "store" ? Then::store : then == "add" ? Then::add : Then::gate;
    if (op.then == Then::gate && then != "gate") refuse("then", "store, add or gate", "'" + then + "'");
    op.gate = parse_gate(gate);
    op.target = target;
    plan.add(std::move(op));
  }

  static Gate parse_gate(const std::string& name) {
    if (name == "silu") return Gate::silu;
    if (name == "gelu_tanh") return Gate::gelu_tanh;
    if (name == "gelu") return Gate::gelu;
    if (name == "relu") return Gate::relu;
    refuse("activation", "silu, gelu_tanh, gelu or relu", "'" + name + "'");
  }

  void gate(int first, int second, int target, const std::string& activation) {
    plan.add(GateOp{.gate = parse_gate(activation), .first = first, .second = second, .target = target});
  }

  void head(int input, nb::object weight, OptionalFloats bias, std::optional<NormArguments> with_norm) {
    LinearsOp op = linears_op(input, {{weight, bias, 0}}, with_norm);
    op.head = true;
    plan.add(std::move(op));
  }

  void add_norm(int input, int target, const NormArguments& arguments) {
    plan.add(AddNormOp{.input = input, .target = target, .norm = norm(arguments, width(input))});
  }

  void attention(PartArguments query, PartArguments key, PartArguments value, int output, int heads,
                 int key_heads, int head_dim, int layer, float scale, int64_t window, int rotary,
                 std::optional<NormArguments> query_norm, std::optional<NormArguments> key_norm) {
    AttentionOp op{.query = {query.first, query.second},
                   .key = {key.first, key.second},
                   .value = {value.first, value.second},
                   .output = output,
                   .heads = heads,
                   .key_heads = key_heads,
                   .head_dim = head_dim,
                   .layer = layer,
                   .scale = scale,
                   .window = window,
                   .rotary = rotary,
                   .query_norm = {},
                   .key_norm = {}};
    op.has_norms = query_norm.has_value() && key_norm.has_value();
    if (op.has_norms) op.query_norm = norm(*query_norm, head_dim), op.key_norm = norm(*key_norm, head_dim);
    plan.add(op);
  }

  int buffer(int64_t width) { return plan.add_buffer(width); }
  int64_t weight_bytes() const { return plan.weight_bytes(); }
  int64_t cache_block_bytes(bool int8) const { return cache_layout(plan, int8).block_bytes(); }

  int rotary(const std::vector<float>& inverse_frequency, float scaling) {
    return plan.add_rotary({.inverse_frequency = inverse_frequency, .scaling = scaling});
  }
};

std::span<const int32_t> span_of(const Tokens& tokens) { return {tokens.data(), tokens.size()}; }

struct PythonEngine {
  nb::object plan;  // what the engine's pointers point into
  Engine engine;

  PythonEngine(nb::object python_plan, int threads, bool int8_activations, bool int8_cache,
               int64_t max_step_tokens, int64_t cache_blocks)
      : plan(python_plan),
        engine(nb::cast<PythonPlan&>(python_plan).plan, {.threads = threads,
                                                         .int8_activations = int8_activations,
                                                         .int8_cache = int8_cache,
                                                         .max_step_tokens = max_step_tokens,
                                                         .cache_blocks = cache_blocks}) {}

  int64_t open(float temperature, int64_t top_k, float top_p, float min_p, float repetition_penalty,
               uint64_t seed) {
    return engine.open({.temperature = temperature,
                        .top_k = top_k,
                        .top_p = top_p,
                        .min_p = min_p,
                        .repetition_penalty = repetition_penalty,
                        .seed = seed});
  }

  void close(int64_t sequence) { engine.close(sequence); }
  int64_t length(int64_t sequence) { return engine.length(sequence); }
  void truncate(int64_t sequence, int64_t tokens) { engine.truncate(sequence, tokens); }
  int64_t num_free_blocks() { return engine.num_free_blocks(); }
  void set_profile(bool on) { engine.set_profile(on); }
  std::vector<double> take_profile() { return engine.take_profile(); }

  void share(int64_t sequence, int64_t source, Tokens tokens) {
    const auto span = span_of(tokens);
    const nb::gil_scoped_release release;
    engine.share(sequence, source, span);
  }

  // (sequence, new tokens, whether one is to be sampled behind them)
  std::vector<int32_t> step(const std::vector<std::tuple<int64_t, Tokens, bool>>& feeds) {
    std::vector<Feed> list;
    list.reserve(feeds.size());
    for (const auto& [sequence, tokens, sample] : feeds)
      list.push_back({.sequence = sequence, .tokens = span_of(tokens), .sample = sample});
    const nb::gil_scoped_release release;
    return engine.step(list);
  }

  // logits: address of float32 [tokens, outputs]; the caller vouches for it.
  void score(int64_t sequence, Tokens tokens, uintptr_t logits) {
    if (tokens.size() == 0 || logits == 0) refuse("score", "at least one token and a real address", "none");
    const Feed feed{.sequence = sequence, .tokens = span_of(tokens)};
    const nb::gil_scoped_release release;
    engine.score(feed, reinterpret_cast<float*>(logits));
  }

  std::vector<int32_t> generate(int64_t sequence, int64_t count, Tokens stops) {
    const auto span = span_of(stops);
    const nb::gil_scoped_release release;
    return engine.generate(sequence, count, span);
  }
};

// For calls that keep no object of Python.
using WithoutGil = nb::call_guard<nb::gil_scoped_release>;

void bind_plan(nb::module_& module) {
  nb::class_<PythonPlan>(module, "Plan", "A model as a list of ops; csrc/engine/plan.h says what each does.")
      .def(nb::init<int64_t, int64_t>(), "hidden_size"_a, "max_positions"_a)
      .def("buffer", &PythonPlan::buffer, "width"_a)
      .def("rotary", &PythonPlan::rotary, "inverse_frequency"_a, "scaling"_a)
      .def("embed", &PythonPlan::embed, "table"_a, "scale"_a, "positions"_a.none() = nb::none())
      .def("linears", &PythonPlan::linears, "input"_a, "linears"_a, "norm"_a.none(), "then"_a, "gate"_a,
           "target"_a)
      .def("gate", &PythonPlan::gate, "first"_a, "second"_a, "target"_a, "activation"_a)
      .def("head", &PythonPlan::head, "input"_a, "weight"_a, "bias"_a.none(), "norm"_a.none())
      .def("add_norm", &PythonPlan::add_norm, "input"_a, "target"_a, "norm"_a)
      .def("attention", &PythonPlan::attention, "query"_a, "key"_a, "value"_a, "output"_a, "heads"_a,
           "key_heads"_a, "head_dim"_a, "layer"_a, "scale"_a, "window"_a, "rotary"_a, "query_norm"_a.none(),
           "key_norm"_a.none())
      .def("weight_bytes", &PythonPlan::weight_bytes)
      .def("cache_block_bytes", &PythonPlan::cache_block_bytes, "int8"_a);
}

}  // namespace

void bind_engine(nb::module_& module) {
  bind_plan(module);
  nb::class_<PythonEngine>(module, "Engine", "Sequences that are read and continued; csrc/engine/engine.h.")
      .def(nb::init<nb::object, int, bool, bool, int64_t, int64_t>(), "plan"_a, "threads"_a,
           "int8_activations"_a, "int8_cache"_a, "max_step_tokens"_a, "cache_blocks"_a)
      .def("open", &PythonEngine::open, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a,
           "repetition_penalty"_a, "seed"_a)
      .def("close", &PythonEngine::close, WithoutGil(), "sequence"_a)
      .def("length", &PythonEngine::length, WithoutGil(), "sequence"_a)
      .def("truncate", &PythonEngine::truncate, WithoutGil(), "sequence"_a, "tokens"_a)
      .def("share", &PythonEngine::share, "sequence"_a, "source"_a, "tokens"_a)
      .def("step", &PythonEngine::step, "feeds"_a)
      .def("score", &PythonEngine::score, "sequence"_a, "tokens"_a, "logits_ptr"_a)
      .def("generate", &PythonEngine::generate, "sequence"_a, "count"_a, "stops"_a)
      .def("num_free_blocks", &PythonEngine::num_free_blocks, WithoutGil())
      .def("set_profile", &PythonEngine::set_profile, "on"_a)
      .def("take_profile", &PythonEngine::take_profile)
      .def_prop_ro("threads", [](const PythonEngine& self) { return self.engine.threads(); })
      .def_prop_ro("outputs", [](const PythonEngine& self) { return self.engine.plan().outputs; });
}

}  // namespace gossamer
