// Tensors as the CUDA kernels of attention take them.
#pragma once

#include <optional>

#include "bindings/torch/attention_arguments.h"
#include "bindings/torch/device.h"
#include "ops/attention/cuda.h"

namespace pyllm::binding {

// x, or a copy of it: the kernel reads 16 bytes at a time.
inline Tensor with_aligned_rows(const Tensor& x) {
  const bool aligned = reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0 && x.stride(3) == 1 &&
                       x.stride(0) % 8 == 0 && x.stride(1) % 8 == 0 && x.stride(2) % 8 == 0;
  return aligned ? x : torch::stable::contiguous(torch::stable::clone(x));
}

// Tensors that the kernel reads, alive while it is launched.
class Vectors {
 public:
  explicit Vectors(const char* op) : op_(op) {}
  attention::Integers integers(const std::optional<Tensor>& x, int64_t count, const char* argument) {
    if (!x) return {nullptr, false};
    const bool narrow = x->scalar_type() == ScalarType::Int;
    check(x->dim() == 1 && x->size(0) == count && (narrow || x->scalar_type() == ScalarType::Long), op_,
          std::string(argument) + " must be int32 or int64 with an entry per sequence");
    kept_.push_back(dense(*x));
    return {kept_.back().const_data_ptr(), !narrow};
  }
  // (rows, columns) of either width, row after row.
  attention::Integers table(const Tensor& x, int64_t rows, const char* argument) {
    const bool narrow = x.scalar_type() == ScalarType::Int;
    check(x.dim() == 2 && x.size(0) == rows && (narrow || x.scalar_type() == ScalarType::Long), op_,
          std::string(argument) + " must be int32 or int64 with a row per sequence");
    kept_.push_back(dense(x));
    return {kept_.back().const_data_ptr(), !narrow};
  }
  const float* floats(const std::optional<Tensor>& x, int64_t heads, const char* argument) {
    if (!x) return nullptr;
    check(x->dim() == 1 && x->size(0) == heads, op_, std::string(argument) + " must have shape (heads,)");
    const bool wide = x->scalar_type() == ScalarType::Float;
    kept_.push_back(dense(wide ? *x : torch::stable::to(*x, ScalarType::Float)));
    return static_cast<const float*>(kept_.back().const_data_ptr());
  }

 private:
  const char* op_;
  std::vector<Tensor> kept_;
};

// What the kernels take of dtypes and head sizes.
inline void check_on_cuda(const Tensor& q, int64_t value_dim, int64_t largest, const char* op) {
  const auto fits = [=](int64_t dim) { return dim % 8 == 0 && dim <= largest; };
  check(q.scalar_type() == ScalarType::BFloat16 || q.scalar_type() == ScalarType::Half, op,
        "on CUDA q must be bfloat16 or float16");
  check(fits(q.size(3)) && fits(value_dim), op,
        "on CUDA head sizes must be multiples of 8 up to " + std::to_string(largest));
}

}  // namespace pyllm::binding
