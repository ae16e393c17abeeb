// The norm of many tensors on CUDA: the sum stays on the device, where nothing waits for it.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pyllm::gradient_norm {

struct Input {
  DType dtype;  // f32, bf16 or f16
  const void* data;
  int64_t count;
};

// The square root of the sum of squares of all inputs, to *norm on the device.
void norm(const Input* inputs, int64_t count, float* norm);

}  // namespace pyllm::gradient_norm
