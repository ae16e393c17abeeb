// One token per row, drawn from softmax(logits / temperature) after the filters top_k, top_p and min_p, in
// this order. The likeliest token always stays; equal logits rank by token id, lowest first. The draw inverts
// the cumulative distribution in order of token id at a uniform number that is the Philox block of (seed,
// position) alone, so rows do not see each other.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace pyllm::sample {

struct Sample {
  DType dtype;
  int64_t rows, vocab;      // vocab > 0
  const void* logits;       // (rows, vocab), contiguous
  double temperature;       // 0: the first largest logit, nothing is drawn
  int64_t top_k;            // 0: no limit
  double top_p;             // 1: no limit
  double min_p;             // 0: no limit
  const int64_t* seed;      // (rows,)
  const int64_t* position;  // (rows,)
  int64_t* token;           // (rows,)
};

// Returns the first row that holds NaN or nothing above -inf, or -1; tokens of such rows are not written.
int64_t sample(const Sample&);

// --- what the levels provide: passes over one row of W (float, or double for f64)
// -----------------------------

template <class W>
struct Kernels {
  void (*widen)(DType dtype, const void* logits, int64_t count, W* values);
  // Index of the first largest value; -1 if there is NaN, or nothing above -inf.
  int64_t (*first_largest)(const W* values, int64_t count);
  // exp((value - largest) / temperature), exactly 1 for the largest.
  void (*weigh)(const W* values, int64_t count, W largest, double temperature, W* weights);
};

extern const Kernels<float> kernels_scalar;
extern const Kernels<double> kernels_double;

}  // namespace pyllm::sample
