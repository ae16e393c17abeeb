#include "core/levels.h"
#include "ops/gradient_norm/gradient_norm.h"

namespace pyllm::gradient_norm {

PYLLM_DECLARE_PORTABLE(Kernels, kernels);

double sum_of_squares(DType dtype, const void* x, int64_t count) {
  static constexpr Levels<Kernels> kLevels = {.scalar = &kernels_scalar, PYLLM_PORTABLE_LEVELS(kernels)};
  // Doubles always run the reference.
  const Kernels& kernels = dtype == DType::f64 ? kernels_scalar : kLevels.active();
  return kernels.sum_of_squares(dtype, x, count);
}

}  // namespace pyllm::gradient_norm
