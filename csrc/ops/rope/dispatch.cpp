#include "core/levels.h"
#include "ops/rope/rope.h"

namespace pyllm::rope {

PYLLM_DECLARE_PORTABLE(Kernels, kernels);

// Doubles always run the reference.
void rotate(const Rotation& r) {
  static constexpr Levels<Kernels> kLevels = {.scalar = &kernels_scalar, PYLLM_PORTABLE_LEVELS(kernels)};
  (r.dtype == DType::f64 ? kernels_scalar : kLevels.active()).rotate(r);
}

}  // namespace pyllm::rope
