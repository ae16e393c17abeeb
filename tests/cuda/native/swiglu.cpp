#include "ops/swiglu/swiglu.h"

#include "cases.h"

namespace pyllm::test {
namespace {

using swiglu::Activation;
using swiglu::Backward;
using swiglu::Forward;

struct Shape {
  Activation activation;
  int64_t rows, columns, stride;  // of gate and up; of grad_out too where it is columns
  bool gated;
};

// out, grad_gate, grad_up
std::vector<Values> glu(DType dtype, const Shape& s, void (*forward)(const Forward&),
                        void (*backward)(const Backward&)) {
  const int64_t count = s.rows * s.columns;
  Values gate = Values::random(dtype, s.rows * s.stride, 1), up = Values::random(dtype, s.rows * s.stride, 2);
  Values grad = Values::random(dtype, count, 3);
  std::vector<Values> out;
  for (int i = 0; i < 3; ++i) out.emplace_back(dtype, count);
  const swiglu::Input factor = s.gated ? swiglu::Input{up.data(), s.stride} : swiglu::Input{nullptr, 0};
  forward({dtype, s.activation, s.rows, s.columns, {gate.data(), s.stride}, factor, out[0].data()});
  backward({dtype,
            s.activation,
            s.rows,
            s.columns,
            {grad.data(), s.columns},
            {gate.data(), s.stride},
            factor,
            out[1].data(),
            out[2].data()});
  return out;
}

}  // namespace

void swiglu_case(Dice& dice) {
  const Activation activation = static_cast<Activation>(dice.number(0, 2));
  const int64_t columns = dice.coin() ? 8 * dice.number(1, 500) : dice.size(1500);
  const int64_t stride = columns + (dice.coin() ? 0 : dice.coin() ? 8 : dice.number(1, 9));
  const Shape shape = {activation, dice.number(1, 6), columns, stride, dice.coin()};
  for (DType dtype : kCudaDTypes) {
    const auto& scalar = swiglu::kernels_scalar;
    check_near(glu(dtype, shape, swiglu::forward, swiglu::backward),
               glu(dtype, shape, scalar.forward, scalar.backward));
  }
}

}  // namespace pyllm::test
