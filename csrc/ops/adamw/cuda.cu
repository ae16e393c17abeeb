#include "core/gpu_launch.h"
#include "ops/adamw/cuda.cuh"

namespace pyllm::adamw {
namespace {

Tensor tensor_of(const Step& s) {
  const Constants c = constants_of(s);
  return {.param = s.param,
          .grad = s.grad,
          .exp_avg = static_cast<float*>(s.exp_avg),
          .exp_avg_sq = static_cast<float*>(s.exp_avg_sq),
          .master = static_cast<float*>(s.master),
          .count = s.count,
          .step = s.step,
          .seed = s.seed,
          .step_size = static_cast<float>(c.step_size),
          .inverse_root_v = static_cast<float>(c.inverse_root_v),
          .stochastic = s.stochastic && !s.master};
}

Factors factors_of(const Step& s) {
  const Constants c = constants_of(s);
  return {.keep_m = static_cast<float>(c.keep_m),
          .take_m = static_cast<float>(c.take_m),
          .keep_v = static_cast<float>(c.keep_v),
          .take_v = static_cast<float>(c.take_v),
          .decay = static_cast<float>(c.decay),
          .eps = static_cast<float>(c.eps),
          .grad_scale = static_cast<float>(c.grad_scale)};
}

bool aligned(const Step& s) {
  const auto whole = [](const void* data) { return gpu::aligned<float>(data, 0); };
  return whole(s.param) && whole(s.grad) && whole(s.exp_avg) && whole(s.exp_avg_sq) && whole(s.master);
}

template <class T, int kWidth>
void run_with(const std::vector<Tensor>& tensors, const Factors& factors) {
  constexpr int64_t kPerBlock = kThreads * kWidth;
  gpu::for_lists(
      tensors, [](const Tensor& t) { return gpu::ceil_div(t.count, kPerBlock); },
      [&](const gpu::TensorList<Tensor>& list, int64_t blocks) {
        gpu::launch({"adamw_step_", {list.count}, {blocks}, {kThreads}}, adamw_step<T, kWidth>, list,
                    factors);
      });
}

// The steps of one dtype; all share their hyper-parameters.
template <class T>
void run_as(DType dtype, const Step* steps, int64_t count) {
  std::vector<Tensor> vectors, singles;
  for (const Step* s = steps; s != steps + count; ++s) {
    if (s->dtype == dtype) (aligned(*s) ? vectors : singles).push_back(tensor_of(*s));
  }
  run_with<T, gpu::kVector<T>>(vectors, factors_of(*steps));
  run_with<T, 1>(singles, factors_of(*steps));
}

}  // namespace

void run(const Step* steps, int64_t count) {
  if (count == 0) return;
  run_as<float>(DType::f32, steps, count);
  run_as<bfloat16>(DType::bf16, steps, count);
  run_as<float16>(DType::f16, steps, count);
}

}  // namespace pyllm::adamw
