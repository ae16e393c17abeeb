// Everything per token: which tokens count, their losses from the statistics of their logits, and the
// coefficients of their gradients. The kernels do everything per logit.
#include <cmath>
#include <cstring>
#include <vector>

#include "core/levels.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace pyllm::linear_cross_entropy {

PYLLM_DECLARE_PORTABLE(Kernels, kernels);
PYLLM_DECLARE_AMX(Kernels, kernels);
PYLLM_DECLARE_PORTABLE(FusedKernels, fused_kernels);

#if defined(__x86_64__)
extern const Kernels kernels_avx512_bf16;
#endif

namespace {

constexpr FusedKernels kNotFused = {nullptr};

// Null where both directions run one after the other.
auto fused_kernel_for(DType dtype) {
  static constexpr Levels<FusedKernels> kLevels = {.scalar = &kNotFused,
                                                   PYLLM_PORTABLE_LEVELS(fused_kernels)};
  return (dtype == DType::f32 ? kLevels.active() : kNotFused).run;
}

[[maybe_unused]] bool has_bf16_dot() {
#if defined(PYLLM_SOFTWARE_TILES)
  return true;
#else
  static const bool has = machine_has(Extension::avx512_bf16);
  return has;
#endif
}

// Doubles always run the reference.
const Kernels& kernels_for(DType dtype) {
  static constexpr Levels<Kernels> kLevels = {.scalar = &kernels_scalar,
                                              PYLLM_PORTABLE_LEVELS(kernels) PYLLM_AMX_LEVEL(kernels)};
  if (dtype == DType::f64) return kernels_scalar;
#if defined(__x86_64__)
  if (dtype == DType::bf16 && active_isa() == Isa::avx512 && has_bf16_dot()) return kernels_avx512_bf16;
#endif
  return kLevels.active();
}

// An array of accumulators, whichever they are.
class Scalars {
 public:
  Scalars(DType dtype, const void* data) : wide_(dtype == DType::f64), data_(const_cast<void*>(data)) {}
  explicit operator bool() const { return data_ != nullptr; }
  double operator[](int64_t i) const {
    return wide_ ? static_cast<double*>(data_)[i] : static_cast<double>(static_cast<float*>(data_)[i]);
  }
  void set(int64_t i, double value) const {
    if (wide_) {
      static_cast<double*>(data_)[i] = value;
    } else {
      static_cast<float*>(data_)[i] = static_cast<float>(value);
    }
  }

 private:
  bool wide_;
  void* data_;
};

bool is_counted(const Problem& p, int64_t token) {
  return p.target[token] != p.ignore_index && !(p.token_weight && p.token_weight[token] == 0);
}

double weight_of(const Problem& p, int64_t token) {
  return !is_counted(p, token) ? 0 : p.token_weight ? p.token_weight[token] : 1;
}

// What the reduction divides by, 1 where there is nothing to divide by.
double divisor(const Problem& p) {
  if (p.reduction != Reduction::mean) return 1;
  double total = 0;
  for (int64_t token = 0; token < p.tokens; ++token) total += weight_of(p, token);
  return total == 0 ? 1 : total;
}

struct RowList {
  std::vector<int64_t> token, target;
  void add(const Problem& p, int64_t i) {
    token.push_back(i);
    target.push_back(is_counted(p, i) ? p.target[i] : -1);
  }
  Rows view() const { return {static_cast<int64_t>(token.size()), token.data(), target.data()}; }
};

double token_loss(const Problem& p, const Statistics& s, double lse) {
  // Differences from the largest logit first: a confident prediction's loss keeps its digits.
  const double log_sum = std::log(s.sum);
  const double nll = log_sum + (s.max - s.target);
  if (p.label_smoothing == 0) return nll + p.z_loss * lse * lse;
  const double mean_nll = log_sum + (s.max - s.total / static_cast<double>(p.vocab));
  return (1 - p.label_smoothing) * nll + p.label_smoothing * mean_nll + p.z_loss * lse * lse;
}

// The rows that forward computes; lse and losses of the others become 0.
RowList rows_of(const Forward& f) {
  const Problem& p = f.problem;
  const Scalars loss(p.dtype, f.loss), lse(p.dtype, f.lse);
  RowList list;
  for (int64_t token = 0; token < p.tokens; ++token) {
    if (f.lse_everywhere || is_counted(p, token)) list.add(p, token);
    lse.set(token, 0);
    if (p.reduction == Reduction::none) loss.set(token, 0);
  }
  return list;
}

// lse and losses from the rows' statistics.
void finish_forward(const Forward& f, const Rows& rows, const Statistics* statistics) {
  const Problem& p = f.problem;
  const Scalars loss(p.dtype, f.loss), lse(p.dtype, f.lse);
  double total = 0;
  for (int64_t row = 0; row < rows.count; ++row) {
    const Statistics& s = statistics[row];
    const int64_t token = rows.token[row];
    const double row_lse = s.max + std::log(s.sum);
    lse.set(token, row_lse);
    if (rows.target[row] < 0) continue;
    const double weighted = weight_of(p, token) * token_loss(p, s, row_lse);
    if (p.reduction == Reduction::none) loss.set(token, weighted);
    total += weighted;
  }
  if (p.reduction != Reduction::none) loss.set(0, total / divisor(p));
}

void clear_row(const Problem& p, void* grad_x, int64_t token) {
  if (!grad_x) return;
  const int64_t bytes = p.hidden * size_of(p.dtype);
  std::memset(static_cast<char*>(grad_x) + token * bytes, 0, static_cast<size_t>(bytes));
}

}  // namespace

int64_t first_bad_target(const int64_t* target, int64_t tokens, int64_t vocab, int64_t ignore_index) {
  for (int64_t i = 0; i < tokens; ++i) {
    if ((target[i] < 0 || target[i] >= vocab) && target[i] != ignore_index) return i;
  }
  return -1;
}

void forward(const Forward& f) {
  const RowList list = rows_of(f);
  const Rows rows = list.view();
  std::vector<Statistics> statistics(static_cast<size_t>(rows.count));
  if (rows.count) kernels_for(f.problem.dtype).forward(f.problem, rows, statistics.data());
  finish_forward(f, rows, statistics.data());
}

void backward(const Backward& b) {
  const Problem& p = b.problem;
  const Scalars grad_loss(p.dtype, b.grad_loss), grad_lse(p.dtype, b.grad_lse), lse(p.dtype, b.lse);
  const double scale = 1 / divisor(p);
  RowList list;
  std::vector<Coefficients> coefficients;
  for (int64_t token = 0; token < p.tokens; ++token) {
    const double weight = weight_of(p, token) * scale;
    // Where nothing counts, an infinite or NaN incoming gradient has no path to the logits.
    const double g = weight == 0 ? 0 : weight * grad_loss[p.reduction == Reduction::none ? token : 0];
    const double through_lse = grad_lse ? grad_lse[token] : 0;
    if (g == 0 && through_lse == 0) {
      clear_row(p, b.grad_x, token);
      continue;
    }
    list.add(p, token);
    coefficients.push_back(coefficients_of(p, lse[token], g, through_lse));
  }
  kernels_for(p.dtype).backward(b, list.view(), coefficients.data());
}

void forward_backward(const ForwardBackward& fb) {
  const Problem& p = fb.forward.problem;
  const auto run = fused_kernel_for(p.dtype);
  if (!run) {
    forward(fb.forward);
    const double one = 1;
    const float narrow_one = 1;
    const void* grad_loss = p.dtype == DType::f64 ? static_cast<const void*>(&one) : &narrow_one;
    return backward({p, grad_loss, nullptr, fb.forward.lse, fb.grad_x, fb.grad_weight, fb.grad_bias});
  }
  const RowList list = rows_of(fb.forward);
  const Rows rows = list.view();
  const double scale = 1 / divisor(p);
  std::vector<double> weights(static_cast<size_t>(rows.count));
  for (int64_t row = 0; row < rows.count; ++row) {
    weights[static_cast<size_t>(row)] = weight_of(p, rows.token[row]) * scale;
  }
  std::vector<Statistics> statistics(static_cast<size_t>(rows.count));
  for (int64_t token = 0; token < p.tokens; ++token) {
    if (!is_counted(p, token)) clear_row(p, fb.grad_x, token);
  }
  run(fb, rows, weights.data(), statistics.data());
  finish_forward(fb.forward, rows, statistics.data());
}

}  // namespace pyllm::linear_cross_entropy
