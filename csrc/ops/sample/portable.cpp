// Passes over a row of logits, which stays in the second-level cache from one to the next.
#include "core/exp2.h"
#include "core/levels.h"
#include "core/vec.h"
#include "ops/sample/sample.h"

namespace pyllm::sample {
namespace {

void widen(DType dtype, const void* logits, int64_t count, float* values) {
  if (dtype == DType::f32) to_float(static_cast<const float*>(logits), values, count);
  if (dtype == DType::bf16) to_float(static_cast<const bfloat16*>(logits), values, count);
  if (dtype == DType::f16) to_float(static_cast<const float16*>(logits), values, count);
}

int64_t first_largest(const float* values, int64_t count) {
  const Vec lowest = set1(-__builtin_inff());
  Vec highest = lowest, has_nan = zero();
  for_each_vec(count, [&](int64_t i, int64_t lanes) {
    const Vec v = load_lanes(values + i, lanes);
    has_nan = select(is_nan(v), set1(1.0f), has_nan);
    highest = max(lanes == kLanes ? v : select(first_lanes(lanes), v, lowest), highest);
  });
  const float largest = reduce_max(highest);
  if (reduce_max(has_nan) > 0.0f || largest == -__builtin_inff()) return -1;
  int64_t i = 0;
  while (values[i] != largest) ++i;
  return i;
}

void weigh(const float* values, int64_t count, float largest, double temperature, float* weights) {
  const Vec top = set1(largest), scale = set1(static_cast<float>(1 / temperature));
  for_each_vec(count, [&](int64_t i, int64_t lanes) {
    const Vec v = load_lanes(values + i, lanes);
    // Not less: the largest itself, for which infinities would make NaN.
    store_lanes(weights + i, select(less(v, top), exp((v - top) * scale), set1(1.0f)), lanes);
  });
}

}  // namespace

extern const Kernels<float> PYLLM_LEVEL_TABLE(kernels);
const Kernels<float> PYLLM_LEVEL_TABLE(kernels) = {widen, first_largest, weigh};

}  // namespace pyllm::sample
