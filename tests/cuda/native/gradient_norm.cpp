#include "ops/gradient_norm/gradient_norm.h"

#include "cases.h"
#include "ops/gradient_norm/cuda.h"

namespace pyllm::test {

void gradient_norm_case(Dice& dice) {
  std::vector<Values> tensors;
  std::vector<gradient_norm::Input> inputs;
  double sum = 0;
  const int64_t count = dice.coin() ? dice.number(1, 3) : dice.number(130, 160);  // more than one list holds
  for (int64_t i = 0; i < count; ++i) {
    const DType dtype = kCudaDTypes[dice.number(0, 2)];
    const int64_t elements = dice.number(0, 5) ? dice.size(9000) : 0, skipped = dice.number(0, 3) == 0;
    tensors.push_back(Values::random(dtype, elements + skipped, static_cast<unsigned>(i)));
    const char* data = static_cast<char*>(tensors.back().data()) + skipped * size_of(dtype);
    inputs.push_back({dtype, data, elements});
    sum += gradient_norm::kernels_scalar.sum_of_squares(dtype, data, elements);
  }
  std::vector<Values> simulated, reference;
  simulated.push_back(Values::filled(DType::f32, 1, -1));
  reference.push_back(Values::filled(DType::f32, 1, std::sqrt(sum)));
  gradient_norm::norm(inputs.data(), count, simulated[0].as<float>());
  check_near(simulated, reference);
}

}  // namespace pyllm::test
