#include "core/levels.h"
#include "ops/linear/linear.h"

namespace pyllm::linear {

PYLLM_DECLARE_PORTABLE(Kernels, kernels);
PYLLM_DECLARE_AMX(Kernels, kernels);

#if defined(__x86_64__)
extern const Kernels kernels_avx512_bf16;
#endif

namespace {

constexpr Levels<Kernels> kLevels = {.scalar = &kernels_scalar,
                                     PYLLM_PORTABLE_LEVELS(kernels) PYLLM_AMX_LEVEL(kernels)};

[[maybe_unused]] bool has_bf16_dot() {
#if defined(PYLLM_SOFTWARE_TILES)
  return true;
#else
  static const bool has = machine_has(Extension::avx512_bf16);
  return has;
#endif
}

// Doubles always run the reference.
const Kernels& kernels_for(DType dtype) {
  if (dtype == DType::f64) return kernels_scalar;
#if defined(__x86_64__)
  if (dtype == DType::bf16 && active_isa() == Isa::avx512 && has_bf16_dot()) return kernels_avx512_bf16;
#endif
  return kLevels.active();
}

}  // namespace

void product(const Product& p) { kernels_for(p.dtype).product(p); }

}  // namespace pyllm::linear
