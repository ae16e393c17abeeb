#include "core/levels.h"
#include "ops/quantized_linear/int8.h"
#include "ops/quantized_linear/quantized_linear.h"

namespace pyllm::quantized_linear {

PYLLM_DECLARE_PORTABLE(Kernels, kernels);
PYLLM_DECLARE_PORTABLE(Int8Forward, int8_forward);

namespace {

// Doubles always run the reference.
bool is_double(const Product* products, int64_t count) { return count > 0 && products->dtype == DType::f64; }

const Kernels& kernels_for(const Product* products, int64_t count) {
  static constexpr Levels<Kernels> kLevels = {.scalar = &kernels_scalar, PYLLM_PORTABLE_LEVELS(kernels)};
  return is_double(products, count) ? kernels_scalar : kLevels.active();
}

constexpr Int8Forward int8_forward_scalar = forward_int8_scalar;

}  // namespace

void forward(const Product* products, int64_t count) {
  kernels_for(products, count).forward(products, count);
}
void grad_x(const Product* products, int64_t count) { kernels_for(products, count).grad_x(products, count); }

void forward_int8(const Product* products, int64_t count) {
  static constexpr Levels<Int8Forward> kLevels = {.scalar = &int8_forward_scalar,
                                                  PYLLM_PORTABLE_LEVELS(int8_forward)};
  (is_double(products, count) ? forward_int8_scalar : kLevels.active())(products, count);
}

}  // namespace pyllm::quantized_linear
