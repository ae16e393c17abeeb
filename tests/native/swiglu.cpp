#include "ops/swiglu/swiglu.h"

#include "harness.h"

namespace pyllm::test {
namespace {

// gate and up are the halves of one tensor's rows, or up is absent: out, grad_gate, grad_up.
std::vector<Values> gated(DType dtype, swiglu::Activation activation, int64_t rows, int64_t columns,
                          bool plain = false) {
  Values both = Values::random(dtype, rows * 2 * columns, 1), grad = Values::random(dtype, rows * columns, 2);
  const swiglu::Input gate = {both.data(), 2 * columns};
  const swiglu::Input second = {static_cast<char*>(both.data()) + columns * size_of(dtype), 2 * columns};
  const swiglu::Input up = plain ? swiglu::Input{} : second;
  std::vector<Values> out;
  for (int i = 0; i < 3; ++i) out.emplace_back(dtype, rows * columns);
  swiglu::forward({.dtype = dtype,
                   .activation = activation,
                   .rows = rows,
                   .columns = columns,
                   .gate = gate,
                   .up = up,
                   .out = out[0].data()});
  swiglu::backward({.dtype = dtype,
                    .activation = activation,
                    .rows = rows,
                    .columns = columns,
                    .grad_out = {grad.data(), columns},
                    .gate = gate,
                    .up = up,
                    .grad_gate = out[1].data(),
                    .grad_up = out[2].data()});
  return out;
}

}  // namespace

void test_swiglu() {
  using swiglu::Activation;
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{0, 5}, {1, 1}, {3, 37}, {2, 9000}}) {
    for (Activation activation : {Activation::silu, Activation::gelu, Activation::gelu_tanh}) {
      for (bool plain : {false, true}) {
        check_levels_and_threads(
            [&, r = rows, c = columns](DType dtype) { return gated(dtype, activation, r, c, plain); });
      }
    }
  }
}

void fuzz_swiglu(Dice& dice) {
  using swiglu::Activation;
  const int64_t rows = dice.size(5), columns = dice.size(3000);
  const Activation activation = dice.coin()   ? Activation::silu
                                : dice.coin() ? Activation::gelu
                                              : Activation::gelu_tanh;
  const bool plain = dice.coin();
  check_levels_and_threads([&](DType dtype) { return gated(dtype, activation, rows, columns, plain); });
}

}  // namespace pyllm::test
