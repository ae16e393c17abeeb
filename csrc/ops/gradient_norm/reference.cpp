#include "ops/gradient_norm/gradient_norm.h"

namespace pyllm::gradient_norm {

const Kernels kernels_scalar = {[](DType dtype, const void* data, int64_t count) {
  double total = 0;
  visit(dtype, [&](auto zero) {
    const auto* x = static_cast<const decltype(zero)*>(data);
    for (int64_t i = 0; i < count; ++i) total += to_double(x[i]) * to_double(x[i]);
  });
  return total;
}};

}  // namespace pyllm::gradient_norm
