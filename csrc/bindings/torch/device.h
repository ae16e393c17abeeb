// Where an op runs. The shims of an op that has CUDA kernels are compiled for three libraries, which differ
// in what stands here: libpyllm_cpu.so, which also defines the schemas; libpyllm_cuda.so (PYLLM_CUDA), whose
// kernels run on the current stream of their tensors' device; and, for tests, one whose CUDA kernels run on a
// CPU under names of their own (PYLLM_SIMULATED_CUDA; tests/cuda/simulator).
#pragma once

#include <initializer_list>
#include <optional>

#include "bindings/torch/tensor.h"

#if defined(PYLLM_CUDA)
#define PYLLM_SCHEMAS(m) \
  [[maybe_unused]] static void defined_by_libpyllm_cpu(torch::stable::detail::StableLibrary& m)
#define PYLLM_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(pyllm, CUDA, m)
#elif defined(PYLLM_SIMULATED_CUDA)
#define PYLLM_SCHEMAS(m) STABLE_TORCH_LIBRARY_FRAGMENT(pyllm_simulated, m)
#define PYLLM_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(pyllm_simulated, CPU, m)
#else
#define PYLLM_SCHEMAS(m) STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m)
#define PYLLM_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m)
#endif

#if defined(PYLLM_CUDA) || defined(PYLLM_SIMULATED_CUDA)

#include "core/gpu_context.h"
#ifdef PYLLM_CUDA
#include <torch/csrc/stable/accelerator.h>
#endif

namespace pyllm::binding {

// Makes the tensors' device and its current stream those of the kernels launched in this scope. Scratch
// memory comes from torch's allocator, which knows that a block given back is free only for later work of the
// same stream.
class OnDevice : gpu::Context {
  const Tensor& first_;

 public:
  OnDevice(const char* op, std::initializer_list<const Tensor*> tensors)
      : first_(**tensors.begin()), scope_(*this) {
    check(first_.scalar_type() != ScalarType::Double, op, "CUDA kernels take no float64");
    for (const Tensor* x : tensors) check_device(op, x);
  }
  // More tensors of the same device.
  void take(const char* op, const std::vector<Tensor>& tensors) const {
    for (const Tensor& x : tensors) check_device(op, &x);
  }
  void* allocate(size_t bytes) override {
    scratch_.push_back(empty(first_, {static_cast<int64_t>(bytes)}, ScalarType::Byte));
    return scratch_.back().mutable_data_ptr();
  }
#ifdef PYLLM_CUDA
  void* stream() const override { return stream_.nativeHandle(); }

 private:
  torch::stable::accelerator::DeviceGuard guard_{static_cast<int32_t>(first_.get_device_index())};
  torch::stable::accelerator::Stream stream_{
      torch::stable::accelerator::getCurrentStream(static_cast<int32_t>(first_.get_device_index()))};
#else
  void* stream() const override { return nullptr; }
#endif

 private:
  void check_device(const char* op, const Tensor* x) const {
    check(!x || x->device() == first_.device(), op, "all tensors must be on one device");
  }
  gpu::ContextScope scope_;
  std::vector<Tensor> scratch_;
};

}  // namespace pyllm::binding

#else

namespace pyllm::binding {

struct OnDevice {
  OnDevice(const char*, std::initializer_list<const Tensor*>) {}
  void take(const char*, const std::vector<Tensor>&) const {}
};

}  // namespace pyllm::binding

#endif

namespace pyllm::binding {

// A tensor that may be missing, for OnDevice.
inline const Tensor* address(const std::optional<Tensor>& x) { return x ? &*x : nullptr; }

}  // namespace pyllm::binding
