#include "core/levels.h"
#include "ops/quantized_linear/int8.h"
#include "ops/quantized_linear/quantized_linear.h"

namespace pyllm::quantized_linear {

PYLLM_DECLARE_PORTABLE(Kernels, kernels);
PYLLM_DECLARE_PORTABLE(Int8Forward, int8_forward);

namespace {

// Doubles always run the reference.
const Kernels& kernels_for(DType dtype) {
  static constexpr Levels<Kernels> kLevels = {.scalar = &kernels_scalar, PYLLM_PORTABLE_LEVELS(kernels)};
  return dtype == DType::f64 ? kernels_scalar : kLevels.active();
}

constexpr Int8Forward int8_forward_scalar = forward_int8_scalar;

}  // namespace

void forward(const Product& p) { kernels_for(p.dtype).forward(p); }
void grad_x(const Product& p) { kernels_for(p.dtype).grad_x(p); }

void forward_int8(const Product& p) {
  static constexpr Levels<Int8Forward> kLevels = {.scalar = &int8_forward_scalar,
                                                  PYLLM_PORTABLE_LEVELS(int8_forward)};
  (p.dtype == DType::f64 ? forward_int8_scalar : kLevels.active())(p);
}

}  // namespace pyllm::quantized_linear
