// What every op's binding needs from the LibTorch stable ABI.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace pyllm::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Throws what Python shows as a RuntimeError. The Python layer has already checked what users can get wrong;
// these checks keep a direct call of torch.ops.pyllm from reading outside its tensors.
inline void check(bool condition, const char* op, const std::string& message) {
  if (!condition) throw std::runtime_error(std::string("pyllm::") + op + ": " + message);
}
// The same without a string where all is well: some ops run for only a few microseconds.
inline void check(bool condition, const char* op, const char* message) {
  if (!condition) check(false, op, std::string(message));
}

inline DType dtype_of(const Tensor& x, const char* op, const char* argument) {
  switch (x.scalar_type()) {
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Half:
      return DType::f16;
    default:
      throw std::runtime_error(std::string("pyllm::") + op + ": " + argument +
                               " must be float64, float32, bfloat16 or float16");
  }
}

inline int32_t device_type(const Tensor& x) {
  int32_t type;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &type));
  return type;
}

// Torch picks a kernel by all arguments together: one on another device, or on none, gets here too.
inline void check_same_device(const Tensor& x, const Tensor& other, const char* op, const char* argument) {
  if (device_type(x) == device_type(other)) return;
  check(false, op, std::string(argument) + " must be on the device of the first argument");
}

// Dtype and device.
inline void check_same_kind(const Tensor& x, const Tensor& other, const char* op, const char* argument) {
  check_same_device(x, other, op, argument);
  if (x.scalar_type() == other.scalar_type()) return;
  check(false, op, std::string(argument) + " must have the same dtype as the first argument");
}

inline void check_same_shape(const Tensor& x, const Tensor& other, const char* op, const char* argument) {
  const auto shape = x.sizes(), other_shape = other.sizes();
  if (std::equal(shape.begin(), shape.end(), other_shape.begin(), other_shape.end())) return;
  check(false, op, std::string(argument) + " must have the same shape as the first argument");
}

inline std::vector<int64_t> shape_of(const Tensor& x) {
  return std::vector<int64_t>(x.sizes().begin(), x.sizes().end());
}

// Uninitialized and contiguous. Straight to the allocator: torch's new_empty is an operator, and a call
// through the dispatcher takes longer than a norm of one row.
inline Tensor empty(const std::vector<int64_t>& shape, int32_t dtype, int32_t device_type, int32_t device) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0; stride *= std::max<int64_t>(shape[i], 1)) strides[i] = stride;
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(shape.size()), shape.data(), strides.data(), dtype, device_type, device, &handle));
  return Tensor(handle);
}
inline int32_t code_of(ScalarType dtype) {
  return torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
}
// On the device of x.
inline Tensor empty(const Tensor& x, const std::vector<int64_t>& shape, int32_t dtype) {
  int32_t device_type = 0, device = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x.get(), &device));
  return empty(shape, dtype, device_type, device);
}
inline Tensor empty(const Tensor& x, const std::vector<int64_t>& shape, ScalarType dtype) {
  return empty(x, shape, code_of(dtype));
}
// The same dtype too.
inline Tensor empty(const Tensor& x, const std::vector<int64_t>& shape) {
  int32_t dtype = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  return empty(x, shape, dtype);
}

// The dtype sums are kept in: float64 for float64, otherwise float32.
inline ScalarType accumulator_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// x, or a contiguous copy of it.
inline Tensor dense(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

// Elements divided by the last dimension's, without dividing by zero.
inline int64_t rows_of(const Tensor& x) {
  int64_t rows = 1;
  for (int64_t i = 0; i + 1 < x.dim(); ++i) rows *= x.size(i);
  return rows;
}

}  // namespace pyllm::binding
