// The sum of squares of a tensor in one fixed order: floats within blocks of kBlock elements, the blocks in
// order in double.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pyllm::gradient_norm {

struct Kernels {
  double (*sum_of_squares)(DType dtype, const void* x, int64_t count);
};

extern const Kernels kernels_scalar;

double sum_of_squares(DType dtype, const void* x, int64_t count);

constexpr int64_t kBlock = 4096;

}  // namespace pyllm::gradient_norm
