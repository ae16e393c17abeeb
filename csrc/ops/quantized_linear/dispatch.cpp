#include "core/levels.h"
#include "ops/quantized_linear/quantized_linear.h"

namespace pyllm::quantized_linear {

PYLLM_DECLARE_PORTABLE(Kernels, kernels);

namespace {

// Doubles always run the reference.
const Kernels& kernels_for(DType dtype) {
  static constexpr Levels<Kernels> kLevels = {.scalar = &kernels_scalar, PYLLM_PORTABLE_LEVELS(kernels)};
  return dtype == DType::f64 ? kernels_scalar : kLevels.active();
}

}  // namespace

void forward(const Product& p) { kernels_for(p.dtype).forward(p); }
void grad_x(const Product& p) { kernels_for(p.dtype).grad_x(p); }

}  // namespace pyllm::quantized_linear
