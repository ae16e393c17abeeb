#include "core/levels.h"
#include "ops/layer_norm/layer_norm.h"

namespace pyllm::layer_norm {

PYLLM_DECLARE_PORTABLE(Kernels, kernels);

namespace {

// Doubles always run the reference.
const Kernels& kernels_for(DType dtype) {
  static constexpr Levels<Kernels> kLevels = {.scalar = &kernels_scalar, PYLLM_PORTABLE_LEVELS(kernels)};
  return dtype == DType::f64 ? kernels_scalar : kLevels.active();
}

}  // namespace

void forward(const Forward& f) { kernels_for(f.dtype).forward(f); }
void backward(const Backward& b) { kernels_for(b.dtype).backward(b); }

}  // namespace pyllm::layer_norm
