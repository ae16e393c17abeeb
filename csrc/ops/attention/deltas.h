// delta = grad_out . out - grad_lse of every row: what the softmax's normalization takes off each gradient of
// a score.
#pragma once

#include <limits>

#include "core/parallel.h"
#include "core/vec.h"
#include "ops/attention/geometry.h"

namespace pyllm::attention {
namespace {

// Elements from lse's first to the last row that a sequence owns.
[[maybe_unused]] inline int64_t lse_size(const Problem& p) {
  int64_t rows = 0;
  for (int64_t i = 0; i < p.sequences; ++i) {
    const int64_t end = row_index(p, p.sequence[i], p.heads - 1, p.sequence[i].q_len);
    rows = end > rows ? end : rows;
  }
  return rows;
}

// delta of every row, laid out as lse.
template <class T>
[[maybe_unused]] void row_deltas(const Backward& b, float* delta) {
  const Problem& p = b.problem;
  parallel_for(0, p.sequences * p.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Sequence& s = p.sequence[i / p.heads];
      for (int64_t query = 0; query < s.q_len; ++query) {
        const T* grad_out = query_row<const T>(b.grad_out, s, i % p.heads, query);
        const T* out = query_row<const T>(b.out, s, i % p.heads, query);
        Vec sum = zero();
        for_each_vec(p.value_dim, [&](int64_t d, int64_t lanes) {
          sum = fma(load_lanes(grad_out + d, lanes), load_lanes(out + d, lanes), sum);
        });
        const int64_t index = row_index(p, s, i % p.heads, query);
        delta[index] = reduce_add(sum) - (b.grad_lse ? static_cast<const float*>(b.grad_lse)[index] : 0.0f);
      }
    }
  });
}

// The sink is a key without a value: its gradient is that of a score with g = 0, over all rows of its head.
[[maybe_unused]] inline void sink_gradients(const Backward& b, const float* delta) {
  const Problem& p = b.problem;
  for (int64_t head = 0; head < p.heads; ++head) {
    double sum = 0;
    for (int64_t i = 0; i < p.sequences; ++i) {
      for (int64_t query = 0; query < p.sequence[i].q_len; ++query) {
        const int64_t index = row_index(p, p.sequence[i], head, query);
        const double lse = static_cast<const float*>(b.lse)[index];
        const bool seen = lse != -std::numeric_limits<double>::infinity();
        if (seen) sum -= __builtin_exp(p.sink_logits[head] - lse) * delta[index];
      }
    }
    static_cast<float*>(b.grad_sink)[head] = static_cast<float>(sum);
  }
}

}  // namespace
}  // namespace pyllm::attention
