#include <cmath>

#include "ops/adamw/adamw.h"
#include "ops/adamw/noise.h"

namespace pyllm::adamw {
namespace {

template <class T>
T rounded(const Step& s, Accumulator<T> x, int64_t i) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (s.stochastic) return round_stochastically(x, noise_of(s.seed, s.step, i));
  }
  return from_accumulator<T>(x);
}

template <class T>
void step_as(const Step& s, const Constants& c, int64_t begin, int64_t count) {
  using Wide = Accumulator<T>;
  T* param = static_cast<T*>(s.param);
  const T* grad = static_cast<const T*>(s.grad);
  Wide *exp_avg = static_cast<Wide*>(s.exp_avg), *exp_avg_sq = static_cast<Wide*>(s.exp_avg_sq);
  Wide* master = static_cast<Wide*>(s.master);
  for (int64_t i = begin; i < begin + count; ++i) {
    const double g = to_double(grad[i]) * c.grad_scale;
    const double m = c.keep_m * to_double(exp_avg[i]) + c.take_m * g;
    const double v = c.keep_v * to_double(exp_avg_sq[i]) + c.take_v * g * g;
    const double p = master ? to_double(master[i]) : to_double(param[i]);
    const double updated = p * c.decay - c.step_size * m / (std::sqrt(v) * c.inverse_root_v + c.eps);
    exp_avg[i] = static_cast<Wide>(m);
    exp_avg_sq[i] = static_cast<Wide>(v);
    if (master) master[i] = static_cast<Wide>(updated);
    // From the rounded master, as anyone who rounds the master gets it.
    param[i] = rounded<T>(s, static_cast<Wide>(updated), i);
  }
}

}  // namespace

const Kernels kernels_scalar = {[](const Step& s, const Constants& c, int64_t begin, int64_t count) {
  visit(s.dtype, [&](auto zero) { step_as<decltype(zero)>(s, c, begin, count); });
}};

}  // namespace pyllm::adamw
