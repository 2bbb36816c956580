// A small model of random weights in every format, run in every way: made to be run under the sanitizers.
//
//   cmake -S . -B build/sanitized -DGOSSAMER_SANITIZE=ON && cmake --build build/sanitized --target engine_test
//   build/sanitized/engine_test [steps]
//
// Buffers have exactly the size that the layouts give them, so that one byte too far is seen. Also checked: a batch and a
// prompt in parts sample what one sequence in one step samples, tiles (emulated) give the bits of AVX-512, and steps take
// no memory.
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "tests/store.h"

namespace gossamer {
namespace {

constexpr int64_t kHidden = 96, kInner = 160, kVocabulary = 70, kHeads = 6, kKeyHeads = 2, kHeadDim = 16,
                  kRank = 13;

LinearsOp linears(int input, std::vector<Linear> list, Then then, int target = 0) {
  LinearsOp op;
  op.input = input, op.linears = std::move(list), op.then = then, op.target = target;
  return op;
}

Plan make_plan(Store& store) {
  Plan plan;
  plan.max_positions = 200;
  plan.add_buffer(kHidden);
  const int query = plan.add_buffer(kHeads * kHeadDim), key = plan.add_buffer(kKeyHeads * kHeadDim);
  const int value = plan.add_buffer(kKeyHeads * kHeadDim), attention = plan.add_buffer(kHeads * kHeadDim);
  const int added = plan.add_buffer(kHidden), gate = plan.add_buffer(kInner), up = plan.add_buffer(kInner);
  const int inner = plan.add_buffer(kInner), reduced = plan.add_buffer(kRank),
            product = plan.add_buffer(kInner);
  const int rotary =
      plan.add_rotary({.inverse_frequency = std::vector<float>(kHeadDim / 2, 0.3f), .scaling = 1});
  const IntegerView table = store.integer(kVocabulary, kHidden, 8, false);
  plan.add(EmbedOp{.table = table, .scale = 1, .has_positions = false, .positions = {}});
  for (int layer = 0; layer < 2; ++layer) {
    LinearsOp qkv =
        linears(0,
                {{store.integer(kHeads * kHeadDim, kHidden, 4 + layer, false),
                  store.floats(kHeads * kHeadDim, 0, 1), query},
                 {store.nm(kKeyHeads * kHeadDim, kHidden, 1 + layer), nullptr, key},
                 {store.bitmask(kKeyHeads * kHeadDim, kHidden, layer ? Values::int8 : Values::nibble),
                  nullptr, value}},
                Then::store);
    qkv.has_norm = true, qkv.norm = store.norm(kHidden);
    plan.add(std::move(qkv));
    plan.add(AttentionOp{.query = {query, 0},
                         .key = {key, 0},
                         .value = {value, 0},
                         .output = attention,
                         .heads = kHeads,
                         .key_heads = kKeyHeads,
                         .head_dim = kHeadDim,
                         .layer = layer,
                         .scale = 0.25f,
                         .window = layer ? 40 : 0,
                         .rotary = rotary,
                         .query_norm = {},
                         .key_norm = {}});
    plan.add(linears(attention, {{store.dense(kHidden, kHeads * kHeadDim), nullptr, added}}, Then::add));
    // In layer 1 `up` has a low-rank part, and the gate comes on its own.
    const MatrixView upwards = layer ? MatrixView(store.bitmask(kInner, kHidden, Values::nibble))
                                     : MatrixView(store.narrow(kInner, kHidden, 4));
    LinearsOp gated =
        linears(0, {{store.integer(kInner, kHidden, 3, true), nullptr, gate}, {upwards, nullptr, up}},
                layer ? Then::store : Then::gate, inner);
    if (layer) gated.linears.push_back({store.dense(kRank, kHidden), nullptr, reduced});
    gated.has_norm = true, gated.norm = store.norm(kHidden);
    plan.add(std::move(gated));
    if (layer) {
      plan.add(linears(reduced, {{store.dense(kInner, kRank), nullptr, product}}, Then::add, up));
      plan.add(GateOp{.gate = Gate::gelu, .first = gate, .second = up, .target = inner});
    }
    const NMView down = layer ? store.narrow(kHidden, kInner, 8) : store.nm(kHidden, kInner, 3);
    plan.add(linears(inner, {{down, nullptr, added}}, Then::store));
    plan.add(AddNormOp{.input = added, .target = 0, .norm = store.norm(kHidden)});
  }
  LinearsOp head = linears(0, {{table, nullptr, 0}}, Then::store);
  head.head = true, head.has_norm = true, head.norm = store.norm(kHidden);
  plan.add(std::move(head));
  return plan;
}

std::vector<int32_t> prompt(int64_t length) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < length; ++i) tokens.push_back(static_cast<int32_t>(i * 31 % kVocabulary));
  return tokens;
}

std::vector<int32_t> write(Engine& engine, int64_t length, int64_t count) {
  const int64_t sequence = engine.open({});
  const std::vector<int32_t> tokens = prompt(length);
  std::vector<int32_t> written = engine.step({{.sequence = sequence, .tokens = tokens}});
  const std::vector<int32_t> rest = engine.generate(sequence, count, {});
  written.insert(written.end(), rest.begin(), rest.end());
  engine.close(sequence);
  return written;
}

// Returns the logits of a prompt.
std::vector<float> run_all(const Plan& plan, int threads, bool int8) {
  const EngineSettings settings{.threads = threads,
                                .int8_activations = int8,
                                .int8_cache = int8,
                                .max_step_tokens = 50,
                                .cache_blocks = 30};
  Engine engine(plan, settings), narrow(plan, {.threads = threads,
                                               .int8_activations = int8,
                                               .int8_cache = int8,
                                               .max_step_tokens = 7,
                                               .cache_blocks = 7});
  for (int64_t length : {1, 3, 33, 150})
    expect(write(engine, length, 20) == write(narrow, length, 20), "parts of a prompt change the text");
  std::vector<int64_t> sequences;
  std::vector<std::vector<int32_t>> together, prompts;
  for (int64_t i = 0; i < 11; ++i)
    sequences.push_back(
        engine.open({.temperature = i % 2 ? 0.0f : 1e-6f, .top_k = 5, .top_p = 0.9f, .min_p = 0.01f})),
        prompts.push_back(prompt(2 * i + 1));
  for (int step = 0; step < 6; ++step) {
    std::vector<Feed> feeds;
    for (size_t i = 0; i < sequences.size(); ++i) {
      feeds.push_back({.sequence = sequences[i], .tokens = {}});
      if (step == 0) feeds.back().tokens = prompts[i];
    }
    together.push_back(engine.step(feeds));
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    engine.close(sequences[i]);
    const std::vector<int32_t> alone = write(engine, static_cast<int64_t>(prompts[i].size()), 5);
    for (size_t step = 0; step < 6; ++step)
      expect(together[step][i] == alone[step], "a batch changes the text");
  }
  const std::vector<int32_t> start = prompt(70), shared(start.begin(), start.begin() + 64),
                             tail(start.begin() + 64, start.end());
  const int64_t first = engine.open({}), second = engine.open({});
  const std::vector<int32_t> one = engine.step({{.sequence = first, .tokens = start}});
  engine.share(second, first, shared);
  expect(engine.step({{.sequence = second, .tokens = tail}}) == one, "shared blocks change the text");
  engine.truncate(first, 40);  // copies a block
  engine.step({{.sequence = first, .tokens = prompt(30)}});
  engine.close(first);
  engine.truncate(second, 64);
  expect(engine.step({{.sequence = second, .tokens = tail}}) == one, "a shared block was written to");
  engine.close(second);
  std::vector<float> logits(static_cast<size_t>(60 * kVocabulary));
  const int64_t sequence = engine.open({.repetition_penalty = 1.2f});
  const std::vector<int32_t> tokens = prompt(60);
  engine.score({.sequence = sequence, .tokens = tokens}, logits.data());
  engine.truncate(sequence, 33);
  engine.step({{.sequence = sequence, .tokens = tokens}});
  bool refused = false;
  try {
    engine.generate(sequence, 1000, {});
  } catch (const std::exception&) {
    refused = true;
  }
  expect(refused, "more tokens than positions were written");
  return logits;
}

long resident_kb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

}  // namespace
}  // namespace gossamer

int main(int argc, char** argv) {
  using namespace gossamer;
  Store store;
  const Plan plan = make_plan(store);
  std::vector<float> logits;  // with int8 activations
  for (Isa isa : usable_isas()) {
    set_isa(isa_name(isa));
    std::vector<float> before = std::exchange(logits, {});
    for (int threads : {1, 2, 4})
      for (bool int8 : {false, true}) logits = run_all(plan, threads, int8);
    expect(isa != Isa::amx || logits == before, "tiles change the logits");
    std::printf("%s: done\n", isa_name(isa));
  }
  const long steps = argc > 1 ? std::atol(argv[1]) : 300;
  Engine engine(plan, {.threads = 2, .int8_activations = true, .max_step_tokens = 16, .cache_blocks = 8});
  write(engine, 20, 100);
  const long before = resident_kb();
  for (long done = 0; done < steps; done += 100) write(engine, 20, 100);
  std::printf("%ld steps: resident memory %ld KB before, %ld KB after\n", steps, before, resident_kb());
  expect(resident_kb() - before < 1024, "steps take memory");
  return 0;
}
