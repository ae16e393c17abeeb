// Output projection and cross entropy; the logits are never held as a whole.
//
//   l = logits / temperature, logits = x weight^T + bias, first bounded by softcap * tanh(logits / softcap)
//   loss = token_weight * ((1 - e) (lse - l[target]) + e (lse - mean(l)) + z_loss lse^2),  e =
//   label_smoothing
//
// All tensors are contiguous and owned by the caller. x, weight, bias and their gradients have one dtype;
// losses, lse and their gradients are accumulators (double for f64, otherwise float).
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pyllm::linear_cross_entropy {

enum class Reduction { none, sum, mean };

struct Problem {
  DType dtype;
  int64_t tokens, hidden, vocab;
  const void* x;       // (tokens, hidden)
  const void* weight;  // (vocab, hidden)
  const void* bias;    // (vocab,), may be null
  const int64_t* target;
  const double* token_weight;  // (tokens,), may be null: ones
  int64_t ignore_index;
  double label_smoothing, z_loss;
  double softcap;  // 0: none
  double temperature;
  Reduction reduction;
};

// A token counts if its target is not ignore_index and its weight is not 0.
struct Forward {
  Problem problem;
  bool lse_everywhere;  // otherwise lse is computed for counted tokens, and 0 elsewhere
  void* loss;           // (tokens,) for Reduction::none, otherwise one
  void* lse;            // (tokens,)
};

struct Backward {
  Problem problem;
  const void* grad_loss;  // as loss
  const void* grad_lse;   // (tokens,), may be null
  const void* lse;        // what forward gave
  void* grad_x;           // each may be null: not wanted
  void* grad_weight;
  void* grad_bias;
  bool wide_grad_weight = false;  // grad_weight is float, whatever the weight is (not for f64)
};

// The loss and its gradients at once, for Reduction::sum and mean and an incoming gradient of 1.
struct ForwardBackward {
  Forward forward;
  void* grad_x;  // each may be null: not wanted
  void* grad_weight;
  void* grad_bias;
};

// The first token whose target is neither in [0, vocab) nor ignore_index, or -1.
int64_t first_bad_target(const int64_t* target, int64_t tokens, int64_t vocab, int64_t ignore_index);

void forward(const Forward&);
void backward(const Backward&);
void forward_backward(const ForwardBackward&);

// --- what the levels provide
// ---------------------------------------------------------------------------------

// The tokens whose logits are needed, numbered 0 .. count - 1.
struct Rows {
  int64_t count;
  const int64_t* token;   // (count,) row of x
  const int64_t* target;  // (count,) -1: none
};

// Of one row's l: sum is that of exp(l - max).
struct Statistics {
  double max, sum, total, target;
};

// dl[j] = p[j] * softmax - [j == target] * target - all, with p = exp(l - lse).
struct Coefficients {
  double lse, softmax, target, all;
};

// `gradient` is that of the token's loss, `through_lse` what comes from lse besides.
inline Coefficients coefficients_of(const Problem& p, double lse, double gradient, double through_lse) {
  return {lse, gradient + through_lse + 2 * p.z_loss * lse * gradient, gradient * (1 - p.label_smoothing),
          gradient * p.label_smoothing / static_cast<double>(p.vocab)};
}

struct Kernels {
  void (*forward)(const Problem&, const Rows&, Statistics*);
  // Writes the given rows of grad_x alone, all of grad_weight and grad_bias.
  void (*backward)(const Backward&, const Rows&, const Coefficients*);
};

extern const Kernels kernels_scalar;

// Vocabulary rows whose logits are made at a time. Exponentials are summed block by block, so the size is
// part of the arithmetic: the same at every level and in every pass. A multiple of the register tiles' 8, 16
// and 48 rows.
constexpr int64_t kBlock = 192;

// Both directions in one: f32 only. weight[r] is the gradient of row r's loss. Writes what backward writes.
struct FusedKernels {
  void (*run)(const ForwardBackward&, const Rows&, const double* weight, Statistics*);
};

}  // namespace pyllm::linear_cross_entropy
