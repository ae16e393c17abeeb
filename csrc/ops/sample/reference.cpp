#include <cmath>

#include "ops/sample/sample.h"

namespace pyllm::sample {
namespace {

template <class W>
void widen(DType dtype, const void* logits, int64_t count, W* values) {
  visit(dtype, [&](auto zero) {
    const auto* from = static_cast<const decltype(zero)*>(logits);
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<W>(to_accumulator(from[i]));
  });
}

template <class W>
int64_t first_largest(const W* values, int64_t count) {
  int64_t best = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (std::isnan(values[i])) return -1;
    if (values[i] > values[best]) best = i;
  }
  return values[best] > -INFINITY ? best : -1;
}

template <class W>
void weigh(const W* values, int64_t count, W largest, double temperature, W* weights) {
  for (int64_t i = 0; i < count; ++i) {
    const double below = to_double(values[i]) - to_double(largest);
    weights[i] = values[i] == largest ? W{1} : static_cast<W>(std::exp(below / temperature));
  }
}

}  // namespace

const Kernels<float> kernels_scalar = {widen, first_largest, weigh};
const Kernels<double> kernels_double = {widen, first_largest, weigh};

}  // namespace pyllm::sample
