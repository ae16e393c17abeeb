// Elementwise, so memory sets the speed: every array passes once, one vector at a time.
#include "core/levels.h"
#include "core/parallel.h"
#include "core/vec.h"
#include "ops/adamw/adamw.h"

namespace pyllm::adamw {
namespace {

constexpr int64_t kGrain = 16384;  // elements: about 450 KB of traffic, enough to pay for a fork

template <class T>
void step_range(const Step& s, const Constants& c, int64_t begin, int64_t count) {
  T* param = static_cast<T*>(s.param) + begin;
  const T* grad = static_cast<const T*>(s.grad) + begin;
  float* exp_avg = static_cast<float*>(s.exp_avg) + begin;
  float* exp_avg_sq = static_cast<float*>(s.exp_avg_sq) + begin;
  float* master = s.master ? static_cast<float*>(s.master) + begin : nullptr;
  const auto constant = [](double value) { return set1(static_cast<float>(value)); };
  const Vec scale = constant(c.grad_scale), take_m = constant(c.take_m), eps = constant(c.eps);
  const Vec keep_v = constant(c.keep_v), take_v = constant(c.take_v);
  const Vec decay = constant(c.decay), step_size = constant(c.step_size), root = constant(c.inverse_root_v);
  for_each_vec(count, [&](int64_t i, int64_t lanes) {
    const Vec g = load_lanes(grad + i, lanes) * scale;
    const Vec old_m = load_lanes(exp_avg + i, lanes);
    const Vec m = fma(take_m, g - old_m, old_m);
    const Vec v = fma(take_v * g, g, keep_v * load_lanes(exp_avg_sq + i, lanes));
    const Vec p = master ? load_lanes(master + i, lanes) : load_lanes(param + i, lanes);
    const Vec updated = p * decay - step_size * (m / fma(sqrt(v), root, eps));
    store_lanes(exp_avg + i, m, lanes);
    store_lanes(exp_avg_sq + i, v, lanes);
    if (master) store_lanes(master + i, updated, lanes);
    store_lanes(param + i, updated, lanes);
  });
}

template <class T>
void step_as(const Step& s, const Constants& c) {
  parallel_for(0, s.count, kGrain,
               [&](int64_t begin, int64_t end) { step_range<T>(s, c, begin, end - begin); });
}

void run_step(const Step& s, const Constants& c) {
  if (s.dtype == DType::f32) step_as<float>(s, c);
  if (s.dtype == DType::bf16) step_as<bfloat16>(s, c);
  if (s.dtype == DType::f16) step_as<float16>(s, c);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_step};

}  // namespace pyllm::adamw
