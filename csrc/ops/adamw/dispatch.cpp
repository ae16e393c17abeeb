#include <cmath>

#include "core/levels.h"
#include "ops/adamw/adamw.h"

namespace pyllm::adamw {

PYLLM_DECLARE_PORTABLE(Kernels, kernels);

namespace {

// Doubles always run the reference.
const Kernels& kernels_for(DType dtype) {
  static constexpr Levels<Kernels> kLevels = {.scalar = &kernels_scalar, PYLLM_PORTABLE_LEVELS(kernels)};
  return dtype == DType::f64 ? kernels_scalar : kLevels.active();
}

}  // namespace

void step(const Step& s) {
  const double steps = static_cast<double>(s.step);
  kernels_for(s.dtype).step(s, {.keep_m = s.beta1,
                                .take_m = 1 - s.beta1,
                                .keep_v = s.beta2,
                                .take_v = 1 - s.beta2,
                                .decay = 1 - s.lr * s.weight_decay,
                                .step_size = s.lr / (1 - std::pow(s.beta1, steps)),
                                .inverse_root_v = 1 / std::sqrt(1 - std::pow(s.beta2, steps)),
                                .eps = s.eps,
                                .grad_scale = s.grad_scale});
}

}  // namespace pyllm::adamw
