#include "core/gpu_launch.h"
#include "ops/gradient_norm/cuda.cuh"
#include "ops/gradient_norm/cuda.h"

namespace pyllm::gradient_norm {
namespace {

template <class T, int kWidth>
void squares_with(const std::vector<Part>& parts) {
  gpu::for_lists(
      parts, [](const Part& part) { return gpu::ceil_div(part.count, kBlock); },
      [](const gpu::TensorList<Part>& list, int64_t blocks) {
        gpu::launch({"gradient_norm", {list.count}, {blocks}, {kThreads}}, squares<T, kWidth>, list);
      });
}

template <class T>
void squares_as(DType dtype, const Input* inputs, int64_t count, float* sums) {
  std::vector<Part> vectors, singles;
  for (const Input* input = inputs; input != inputs + count; ++input) {
    if (input->dtype == dtype) {
      (gpu::aligned<T>(input->data, 0) ? vectors : singles).push_back({input->data, input->count, sums});
    }
    sums += gpu::ceil_div(input->count, kBlock);
  }
  squares_with<T, gpu::kVector<T>>(vectors);
  squares_with<T, 1>(singles);
}

}  // namespace

void norm(const Input* inputs, int64_t count, float* norm) {
  int64_t blocks = 0;
  for (const Input* input = inputs; input != inputs + count; ++input) {
    blocks += gpu::ceil_div(input->count, kBlock);
  }
  float* sums = gpu::allocate<float>(blocks);
  squares_as<float>(DType::f32, inputs, count, sums);
  squares_as<bfloat16>(DType::bf16, inputs, count, sums);
  squares_as<float16>(DType::f16, inputs, count, sums);
  gpu::launch({"gradient_norm", {count}, {1}, {kSumThreads}}, root_of_sum, static_cast<const float*>(sums),
              blocks, norm);
}

}  // namespace pyllm::gradient_norm
