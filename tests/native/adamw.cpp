#include "ops/adamw/adamw.h"

#include "harness.h"

namespace pyllm::test {
namespace {

enum class Kept { nothing, master, noise };  // beside param: at full precision, or rounded stochastically

// Two steps of tensors of these sizes: param, m, v and master of each, in a row.
std::vector<Values> two_steps(DType dtype, const std::vector<int64_t>& counts, Kept kept) {
  const bool wide = kept == Kept::master;
  const DType sums = accumulator(dtype);
  std::vector<Values> grads, state;
  std::vector<adamw::Step> steps;
  unsigned seed = 1;
  for (int64_t count : counts) {
    grads.push_back(Values::random(dtype, count, seed++));
    state.push_back(Values::random(dtype, count, seed++));
    for (int i = 0; i < 2 + wide; ++i) state.push_back(Values::filled(sums, count, 0));
  }
  for (size_t i = 0; i < counts.size(); ++i) {
    Values* of = &state[i * static_cast<size_t>(3 + wide)];
    for (int64_t j = 0; wide && j < counts[i]; ++j) of[3].set(j, of[0][j]);
    steps.push_back({.dtype = dtype,
                     .count = counts[i],
                     .param = of[0].data(),
                     .grad = grads[i].data(),
                     .exp_avg = of[1].data(),
                     .exp_avg_sq = of[2].data(),
                     .master = wide ? of[3].data() : nullptr,
                     .lr = 1e-2,
                     .beta1 = 0.9,
                     .beta2 = 0.95,
                     .eps = 1e-8,
                     .weight_decay = 0.1,
                     .grad_scale = 0.5,
                     .step = 1,
                     .stochastic = kept == Kept::noise,
                     .seed = 7 + i});
  }
  for (int step = 0; step < 2; ++step) {
    adamw::run(steps.data(), static_cast<int64_t>(steps.size()));
    for (adamw::Step& s : steps) ++s.step;
  }
  return state;
}

}  // namespace

void test_adamw() {
  const std::vector<std::vector<int64_t>> cases = {{}, {1}, {7, 0, 33}, {adamw::kChunk + 5, 3}};
  for (const std::vector<int64_t>& counts : cases) {
    for (Kept kept : {Kept::nothing, Kept::master, Kept::noise}) {
      check_levels_and_threads([&](DType dtype) {
        return two_steps(dtype, counts, dtype == DType::bf16 || kept == Kept::master ? kept : Kept::nothing);
      });
    }
  }
}

void fuzz_adamw(Dice& dice) {
  std::vector<int64_t> counts;
  for (int64_t i = dice.number(1, 4); i > 0; --i) counts.push_back(dice.size(2 * adamw::kChunk));
  const Kept kept = dice.coin() ? Kept::master : Kept::nothing;
  check_levels_and_threads([&](DType dtype) { return two_steps(dtype, counts, kept); });
}

}  // namespace pyllm::test
