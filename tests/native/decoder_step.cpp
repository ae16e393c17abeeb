#include "ops/decoder_step/decoder_step.h"

#include "harness.h"

namespace pyllm::test {
namespace {

constexpr int64_t kHidden = 48, kIntermediate = 80, kQueryHeads = 4, kKvHeads = 2, kHeadDim = 14, kPairs = 5;
constexpr int64_t kPageSize = 16, kPages = 5, kAngles = 2 * kPageSize;

// What differs between families.
struct StepOptions {
  bool layer_norm, parallel_block, sandwich_norms, head_norms, gated, biases;
  int64_t window;
};

// Random weights in heap blocks of their exact size.
class RandomNetwork {
 public:
  RandomNetwork(DType dtype, const StepOptions& options) : dtype_(dtype), options_(options) {
    const int64_t query = kQueryHeads * kHeadDim, key = kKvHeads * kHeadDim;
    network = {.dtype = dtype,
               .hidden = kHidden,
               .intermediate = kIntermediate,
               .heads = kQueryHeads,
               .kv_heads = kKvHeads,
               .head_dim = kHeadDim,
               .pairs = kPairs,
               .interleaved = false,
               .parallel_block = options.parallel_block,
               .layer_norm = options.layer_norm,
               .eps = 1e-5,
               .norm_offset = 0,
               .activation = swiglu::Activation::gelu_tanh,
               .scale = 0.3,
               .softcap = 5,
               .layers = {},
               .last = norm(true, kHidden)};
    const DType table = accumulator(dtype);
    const void* cos = random(table, kAngles * kPairs);
    const void* sin = random(table, kAngles * kPairs);
    for (int layer = 0; layer < 2; ++layer) {
      network.layers.push_back(
          {.before_attention = norm(true, kHidden),
           .query = norm(options.head_norms, kHeadDim),
           .key = norm(options.head_norms, kHeadDim),
           .after_attention = norm(options.sandwich_norms, kHidden),
           .before_mlp = norm(!options.parallel_block, kHidden),
           .after_mlp = norm(options.sandwich_norms, kHidden),
           .q = linear(kHidden, query),
           .k = linear(kHidden, key),
           .v = linear(kHidden, key),
           .o = linear(query, kHidden),
           .gate = options.gated ? linear(kHidden, kIntermediate) : decoder_step::Linear{},
           .up = linear(kHidden, kIntermediate),
           .down = linear(kIntermediate, kHidden),
           .window = layer ? options.window : 0,
           .cos = cos,
           .sin = sin});
    }
  }

  decoder_step::Network network;

 private:
  const void* random(DType dtype, int64_t count) {
    values_.push_back(std::make_unique<Values>(Values::random(dtype, count, ++seed_)));
    return values_.back()->data();
  }
  decoder_step::Norm norm(bool exists, int64_t size) {
    if (!exists) return {};
    const bool has_bias = options_.layer_norm && options_.biases;
    return {random(dtype_, size), has_bias ? random(dtype_, size) : nullptr};
  }
  decoder_step::Linear linear(int64_t inputs, int64_t outputs) {
    return {inputs,
            outputs,
            {random(dtype_, outputs * inputs), inputs, 1},
            {},
            options_.biases ? random(dtype_, outputs) : nullptr};
  }

  DType dtype_;
  StepOptions options_;
  unsigned seed_ = 0;
  std::vector<std::unique_ptr<Values>> values_;
};

// Two steps of two sequences, of 3 + `tokens` tokens and of one at a time: outputs, and pages in the end.
std::vector<Values> two_steps(DType dtype, const StepOptions& options, int64_t tokens) {
  const RandomNetwork weights(dtype, options);
  const attention::PageLayout layout = attention::page_layout(dtype, kPageSize, kHeadDim, kHeadDim);
  const int64_t page = layout.elements();
  std::vector<Values> found, pages;
  for (int layer = 0; layer < 2; ++layer) pages.push_back(Values::filled(dtype, kPages * kKvHeads * page, 0));
  const std::vector<int64_t> table = {4, 0, 2};  // of the first sequence two
  for (int64_t step = 0; step < 2; ++step) {
    const int64_t first = step == 0 ? 3 : tokens, start = step == 0 ? 0 : 3, count = first + 1;
    std::vector<int64_t> positions;
    std::vector<attention::WriteKv::Token> places;
    for (int64_t i = 0; i < first; ++i) {
      const int64_t position = start + i;
      positions.push_back(position);
      places.push_back({0, i, table[static_cast<size_t>(position / kPageSize)], position % kPageSize});
    }
    positions.push_back(step);
    places.push_back({0, first, 2, step});
    attention::Sequence sequences[2] = {};
    sequences[0].q_len = first;
    sequences[0].kv_len = start + first;
    sequences[1] = {.batch = 0,
                    .first_query = first,
                    .q_len = 1,
                    .first_key = 0,
                    .kv_len = step + 1,
                    .prefix = 0,
                    .tiles_before = 0,
                    .blocks_before = 0,
                    .first_page = 2};
    std::vector<decoder_step::Cache> caches;
    for (Values& p : pages) caches.push_back({p.data(), kKvHeads * page, page, table.data(), places.data()});
    Values x = Values::random(dtype, count * kHidden, 99);
    found.emplace_back(dtype, count * kHidden);
    decoder_step::run(weights.network, {.tokens = count,
                                        .x = x.data(),
                                        .out = found.back().data(),
                                        .positions = positions.data(),
                                        .sequences = sequences,
                                        .sequence_count = 2,
                                        .layout = layout,
                                        .caches = caches.data()});
  }
  for (Values& p : pages) found.push_back(std::move(p));
  return found;
}

// Rounded between all steps, 16-bit values may differ from the reference's by several roundings.
void check_step(const StepOptions& options, int64_t tokens) {
  for (DType dtype : kDTypes) {
    force_isa("scalar");
    set_threads(1);
    const std::vector<Values> expected = two_steps(dtype, options, tokens);
    for (const std::string& level : levels()) {
      if (dtype == DType::f64 && level != "scalar") continue;
      force_isa(level);
      set_threads(1);
      const std::vector<Values> alone = two_steps(dtype, options, tokens);
      set_threads(3);
      const std::vector<Values> together = two_steps(dtype, options, tokens);
      for (size_t i = 0; i < alone.size(); ++i) {
        CHECK(together[i].same_bits(alone[i]));
        CHECK(alone[i].distance(expected[i]) <= 8 * tolerance(dtype, level));
      }
    }
  }
}

}  // namespace

void test_decoder_step() {
  check_step({.layer_norm = false,
              .parallel_block = false,
              .sandwich_norms = true,
              .head_norms = true,
              .gated = true,
              .biases = false,
              .window = 4},
             1);
  check_step({.layer_norm = true,
              .parallel_block = true,
              .sandwich_norms = false,
              .head_norms = false,
              .gated = false,
              .biases = true,
              .window = 0},
             18);
}

void fuzz_decoder_step(Dice& dice) {
  const bool parallel_block = dice.coin();
  check_step({.layer_norm = dice.coin(),
              .parallel_block = parallel_block,
              .sandwich_norms = !parallel_block && dice.coin(),
              .head_norms = dice.coin(),
              .gated = dice.coin(),
              .biases = dice.coin(),
              .window = dice.number(0, 6)},
             dice.number(1, 25));
}

}  // namespace pyllm::test
