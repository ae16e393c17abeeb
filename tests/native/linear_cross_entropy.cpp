#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include "harness.h"

namespace pyllm::test {
namespace {

namespace lce = linear_cross_entropy;

struct LossShape {
  int64_t tokens, hidden, vocab;
};

struct LossOptions {
  bool bias = false, weighted = false, per_token = false;
  double label_smoothing = 0, z_loss = 0, softcap = 0;
};

// A loss per token and lse, or their mean and lse, and the gradients of x, weight and bias. Every fifth token
// is ignored. `fused`: both directions in one call.
std::vector<Values> loss_and_gradients(DType dtype, const LossShape& shape, const LossOptions& options,
                                       bool fused) {
  const auto [tokens, hidden, vocab] = shape;
  const DType sums = accumulator(dtype);
  Values x = Values::random(dtype, tokens * hidden, 1), weight = Values::random(dtype, vocab * hidden, 2);
  Values bias = Values::random(dtype, vocab, 3), weights = Values::random(DType::f64, tokens, 4);
  std::vector<int64_t> target;
  for (int64_t i = 0; i < tokens; ++i) target.push_back(i % 5 == 4 ? -100 : i * 37 % vocab);
  const lce::Problem problem = {.dtype = dtype,
                                .tokens = tokens,
                                .hidden = hidden,
                                .vocab = vocab,
                                .x = x.data(),
                                .weight = weight.data(),
                                .bias = options.bias ? bias.data() : nullptr,
                                .target = target.data(),
                                .token_weight = options.weighted ? weights.as<double>() : nullptr,
                                .ignore_index = -100,
                                .label_smoothing = options.label_smoothing,
                                .z_loss = options.z_loss,
                                .softcap = options.softcap,
                                .temperature = 1.5,
                                .reduction = options.per_token ? lce::Reduction::none : lce::Reduction::sum};
  const int64_t losses = options.per_token ? tokens : 1;
  std::vector<Values> out;
  out.emplace_back(sums, losses);
  out.emplace_back(sums, tokens);
  for (int64_t count : {tokens * hidden, vocab * hidden, vocab}) out.emplace_back(dtype, count);
  const lce::Forward forward = {
      .problem = problem, .lse_everywhere = false, .loss = out[0].data(), .lse = out[1].data()};
  if (fused) {
    lce::forward_backward({.forward = forward,
                           .grad_x = out[2].data(),
                           .grad_weight = out[3].data(),
                           .grad_bias = out[4].data()});
    return out;
  }
  lce::forward(forward);
  Values grad_loss = Values::filled(sums, losses, 1);
  lce::backward({.problem = problem,
                 .grad_loss = grad_loss.data(),
                 .lse = out[1].data(),
                 .grad_x = out[2].data(),
                 .grad_weight = out[3].data(),
                 .grad_bias = out[4].data()});
  return out;
}

void check_loss(const LossShape& shape, const LossOptions& options) {
  for (bool fused : {false, true}) {
    if (fused && options.per_token) continue;  // the fused form wants a reduction
    check_levels_and_threads(
        [&](DType dtype) { return loss_and_gradients(dtype, shape, options, fused && dtype == DType::f32); });
  }
}

}  // namespace

void test_linear_cross_entropy() {
  for (const LossShape& shape : {LossShape{1, 1, 1}, {7, 20, 33}, {19, 70, 2 * lce::kBlock + 9}}) {
    check_loss(shape, {});
    check_loss(shape, {.bias = true, .weighted = true, .label_smoothing = 0.1, .z_loss = 1e-3});
    check_loss(shape, {.per_token = true, .softcap = 20});
  }
}

void fuzz_linear_cross_entropy(Dice& dice) {
  const LossShape shape = {dice.size(40), dice.size(150), dice.size(600)};
  check_loss(shape, {.bias = dice.coin(),
                     .weighted = dice.coin(),
                     .per_token = dice.coin(),
                     .label_smoothing = dice.coin() ? 0.1 : 0,
                     .z_loss = dice.coin() ? 1e-3 : 0,
                     .softcap = dice.coin() ? 15.0 : 0});
}

}  // namespace pyllm::test
