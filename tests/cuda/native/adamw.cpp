#include "ops/adamw/adamw.h"

#include "cases.h"

namespace pyllm::test {
namespace {

using adamw::Step;

struct Case {
  DType dtype;
  int64_t count;
  bool master, misaligned;
};

// param, exp_avg, exp_avg_sq, master of every tensor after a step.
std::vector<Values> stepped(const std::vector<Case>& cases, const Step& options, bool simulated) {
  std::vector<Values> out, grads;
  std::vector<Step> steps;
  out.reserve(4 * cases.size());
  grads.reserve(cases.size());
  for (const Case& c : cases) {
    const int64_t skipped = c.misaligned ? 1 : 0, all = c.count + skipped;
    grads.push_back(Values::random(c.dtype, all, 1));
    out.push_back(Values::random(c.dtype, all, 2));
    out.push_back(Values::random(DType::f32, c.count, 3));
    out.push_back(Values::random(DType::f32, c.count, 4));
    Values& squares = out.back();
    for (int64_t i = 0; i < c.count; ++i) squares.set(i, squares[i] * squares[i]);
    out.push_back(Values::random(DType::f32, c.count, 2));
    Step s = options;
    const auto past = [&](Values& x) { return static_cast<char*>(x.data()) + skipped * size_of(x.dtype()); };
    Values* const state = &out[out.size() - 4];
    s.dtype = c.dtype;
    s.count = c.count;
    s.param = past(state[0]);
    s.grad = past(grads.back());
    s.exp_avg = state[1].data();
    s.exp_avg_sq = state[2].data();
    s.master = c.master ? state[3].data() : nullptr;
    s.stochastic = options.stochastic && c.dtype == DType::bf16 && !c.master;
    steps.push_back(s);
  }
  if (simulated) {
    adamw::run(steps.data(), static_cast<int64_t>(steps.size()));
  } else {
    for (const Step& s : steps) adamw::kernels_scalar.run(s, adamw::constants_of(s), 0, s.count);
  }
  return out;
}

}  // namespace

void adamw_case(Dice& dice) {
  std::vector<Case> cases;
  const int64_t tensors = dice.coin() ? dice.number(1, 3) : dice.number(30, 60);  // more than one list holds
  for (int64_t i = 0; i < tensors; ++i) {
    const DType dtype = kCudaDTypes[dice.number(0, 2)];
    cases.push_back({dtype, dice.number(0, 5) ? dice.size(3000) : 0, dtype != DType::f32 && dice.coin(),
                     dice.number(0, 3) == 0});
  }
  Step options = {};
  options.lr = 0.02;
  options.beta1 = 0.9;
  options.beta2 = 0.99;
  options.eps = 1e-6;
  options.weight_decay = 0.1;
  options.grad_scale = 0.5;
  options.step = dice.number(1, 1000);
  options.stochastic = dice.coin();
  options.seed = 5;
  check_near(stepped(cases, options, true), stepped(cases, options, false));
}

}  // namespace pyllm::test
