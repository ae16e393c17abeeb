// Elementwise, so memory sets the speed: every array passes once, one vector at a time.
#include "core/levels.h"
#include "core/vec.h"
#include "ops/adamw/adamw.h"
#include "ops/adamw/noise.h"

namespace pyllm::adamw {
namespace {

static_assert(kChunk % kNoiseGroup == 0);

// `out` takes the new parameters: their place, or floats still to be rounded.
template <class T, class Out>
void step_range(const Step& s, const Constants& c, int64_t begin, int64_t count, Out* out) {
  const T* param = static_cast<const T*>(s.param) + begin;
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
    store_lanes(out + i, updated, lanes);
  });
}

void step_stochastically(const Step& s, const Constants& c, int64_t begin, int64_t count) {
  alignas(64) float updated[kNoiseGroup];
  alignas(64) uint32_t noise[kNoiseGroup];
  for (int64_t first = begin; first < begin + count; first += kNoiseGroup) {
    const int64_t rest = begin + count - first, elements = rest < kNoiseGroup ? rest : kNoiseGroup;
    step_range<bfloat16>(s, c, first, elements, updated);
    fill_noise(s.seed, s.step, first / kNoiseGroup, noise);
    bfloat16* param = static_cast<bfloat16*>(s.param) + first;
    for (int64_t i = 0; i < elements; ++i) param[i] = round_stochastically(updated[i], noise[i]);
  }
}

template <class T>
void step_in_place(const Step& s, const Constants& c, int64_t begin, int64_t count) {
  step_range<T>(s, c, begin, count, static_cast<T*>(s.param) + begin);
}

void run(const Step& s, const Constants& c, int64_t begin, int64_t count) {
  if (s.dtype == DType::f32) step_in_place<float>(s, c, begin, count);
  if (s.dtype == DType::f16) step_in_place<float16>(s, c, begin, count);
  if (s.dtype == DType::bf16) {
    (s.stochastic ? step_stochastically : step_in_place<bfloat16>)(s, c, begin, count);
  }
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run};

}  // namespace pyllm::adamw
