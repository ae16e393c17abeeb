#include "core/levels.h"
#include "ops/linear/linear.h"

namespace pyllm::linear {

PYLLM_DECLARE_PORTABLE(Kernels, kernels);
PYLLM_DECLARE_AMX(Kernels, kernels);

// Doubles always run the reference.
void product(const Product& p) {
  static constexpr Levels<Kernels> kLevels = {.scalar = &kernels_scalar,
                                              PYLLM_PORTABLE_LEVELS(kernels) PYLLM_AMX_LEVEL(kernels)};
  (p.dtype == DType::f64 ? kernels_scalar : kLevels.active()).product(p);
}

}  // namespace pyllm::linear
