// One row of scores at a time, in double.
#include <cmath>
#include <limits>
#include <vector>

#include "core/random.h"
#include "ops/attention/attention.h"
#include "ops/attention/geometry.h"
#include "ops/attention/quantized_kv.h"

namespace pyllm::attention {
namespace {

constexpr double kMasked = -std::numeric_limits<double>::infinity();

struct Row {
  const Sequence& s;
  int64_t head, kv_head, query;
};

// What one key contributes: its weight after the softmax, the factor dropout puts on it (0 or 1 / (1 - p)),
// and d score / d dot product.
struct Weights {
  std::vector<double> weight, kept, slope;
  double lse;
};

template <class F>
void for_each_row(const Problem& p, const F& f) {
  for (int64_t i = 0; i < p.sequences; ++i) {
    const Sequence& s = p.sequence[i];
    for (int64_t head = 0; head < p.heads; ++head) {
      for (int64_t query = 0; query < s.q_len; ++query) f(Row{s, head, head / group_size(p), query});
    }
  }
}

template <class T>
double dot(const T* a, const T* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += to_double(a[i]) * to_double(b[i]);
  return sum;
}

// The dense mask's term for one score.
double dense_mask_at(const DenseMask& mask, int64_t offset) {
  if (mask.boolean) return static_cast<const uint8_t*>(mask.data)[offset] ? 0.0 : kMasked;
  double value = 0;
  visit(mask.dtype,
        [&](auto zero) { value = to_double(static_cast<const decltype(zero)*>(mask.data)[offset]); });
  return value;
}

template <class T>
double score(const Problem& p, const Row& r, int64_t key, double* slope) {
  *slope = p.scale;
  const double mask =
      p.mask.data
          ? dense_mask_at(p.mask, mask_row(p.mask.strides, r.s, r.head, r.query) + key * p.mask.strides.key)
          : 0.0;
  if (mask == kMasked || !sees(visible(p, r.s, r.query), key)) return kMasked;
  double x = p.scale * dot(query_row<const T>(p.q, r.s, r.head, r.query),
                           key_row<const T>(p.k, r.s, r.kv_head, key), p.head_dim);
  if (p.softcap > 0) {
    const double t = std::tanh(x / p.softcap);
    x = p.softcap * t;
    *slope *= 1 - t * t;
  }
  if (p.alibi_slopes) {
    const int64_t position = r.query + r.s.kv_len - r.s.q_len;
    x -= p.alibi_slopes[r.head] * std::abs(static_cast<double>(position - key));
  }
  return x + mask;
}

double kept_factor(const Problem& p, const Row& r, int64_t key) {
  if (p.dropout_p <= 0) return 1;
  const PhiloxBlock block = philox(p.seed, dropout_stream(p, r.s, r.head), dropout_index(r.query, key));
  const bool keep = uniform01(block[static_cast<size_t>(key % 4)]) >= static_cast<float>(p.dropout_p);
  return keep ? 1 / (1 - p.dropout_p) : 0;
}

template <class T>
Weights softmax_row(const Problem& p, const Row& r) {
  const size_t keys = static_cast<size_t>(r.s.kv_len);
  Weights w{std::vector<double>(keys), std::vector<double>(keys), std::vector<double>(keys), kMasked};
  double largest = p.sink_logits ? p.sink_logits[r.head] : kMasked;
  bool nan = false;
  for (size_t j = 0; j < keys; ++j) {
    w.weight[j] = score<T>(p, r, static_cast<int64_t>(j), &w.slope[j]);
    w.kept[j] = kept_factor(p, r, static_cast<int64_t>(j));
    largest = w.weight[j] > largest ? w.weight[j] : largest;
    nan = nan || std::isnan(w.weight[j]);
  }
  if (largest == kMasked && !nan) {
    w.weight.assign(keys, 0.0);
    return w;
  }
  double sum = p.sink_logits ? std::exp(p.sink_logits[r.head] - largest) : 0;
  for (double x : w.weight) sum += std::exp(x - largest);
  w.lse = nan ? std::numeric_limits<double>::quiet_NaN() : largest + std::log(sum);
  for (double& x : w.weight) x = x == kMasked ? 0.0 : std::exp(x - w.lse);
  return w;
}

template <class T>
void forward_as(const Forward& f) {
  const Problem& p = f.problem;
  std::vector<double> sum(static_cast<size_t>(p.value_dim));
  for_each_row(p, [&](const Row& r) {
    const Weights w = softmax_row<T>(p, r);
    sum.assign(sum.size(), 0.0);
    for (int64_t key = 0; key < r.s.kv_len; ++key) {
      const size_t j = static_cast<size_t>(key);
      if (!sees(visible(p, r.s, r.query), key) || w.weight[j] == 0.0) continue;
      const T* v = key_row<const T>(p.v, r.s, r.kv_head, key);
      for (size_t d = 0; d < sum.size(); ++d) sum[d] += w.weight[j] * w.kept[j] * to_double(v[d]);
    }
    T* out = query_row<T>(f.out, r.s, r.head, r.query);
    for (size_t d = 0; d < sum.size(); ++d) out[d] = from_double<T>(sum[d]);
    static_cast<Accumulator<T>*>(f.lse)[row_index(p, r.s, r.head, r.query)] =
        static_cast<Accumulator<T>>(w.lse);
  });
}

// A problem on a paged cache as one on ordinary tensors.
template <class T>
class Unpaged {
 public:
  explicit Unpaged(const Problem& p) : problem(p) {
    const PageLayout& at = p.pages.layout;
    int64_t keys = 0;
    for (int64_t i = 0; i < p.sequences; ++i) {
      sequences_.push_back(p.sequence[i]);
      sequences_.back().first_key = keys;
      keys += p.sequence[i].kv_len;
    }
    k_.resize(static_cast<size_t>(p.kv_heads * keys * p.head_dim));
    v_.resize(static_cast<size_t>(p.kv_heads * keys * p.value_dim));
    for (const Sequence& s : sequences_) {
      for (int64_t key = 0; key < s.kv_len; ++key) {
        const int64_t page = p.pages.table[s.first_page + key / at.page_size];
        for (int64_t head = 0; head < p.kv_heads; ++head) {
          const int64_t row = head * keys + s.first_key + key;
          read_token(p.pages, page * p.pages.page_stride + head * p.pages.head_stride, key % at.page_size,
                     k_.data() + row * p.head_dim, v_.data() + row * p.value_dim);
        }
      }
    }
    problem.sequence = sequences_.data();
    problem.k = {k_.data(), 0, keys * p.head_dim, p.head_dim};
    problem.v = {v_.data(), 0, keys * p.value_dim, p.value_dim};
    problem.pages = {};
  }

  Problem problem;

 private:
  static void read_token(const PagedKeys& pages, int64_t offset, int64_t token, T* key, T* value) {
    const PageLayout& at = pages.layout;
    if (pages.code == KvCode::none) {
      unpack_token(at, token, static_cast<const T*>(pages.data) + offset, key, value);
      return;
    }
    dequantize_token(quantized_layout(pages.code, at.page_size, at.head_dim, at.value_dim), token,
                     static_cast<const uint8_t*>(pages.data) + offset, key, value);
  }

  std::vector<Sequence> sequences_;
  std::vector<T> k_, v_;
};

template <class T>
void forward_paged_as(const Forward& f) {
  const Unpaged<T> dense(f.problem);
  forward_as<T>({dense.problem, f.out, f.lse});
}

// Gradients of k or v while they are being summed, in double: (sequence, kv head, key, dim).
class KeyGradients {
 public:
  KeyGradients(const Problem& p, int64_t dim)
      : problem_(p), dim_(dim), first_(static_cast<size_t>(p.sequences)) {
    int64_t rows = 0;
    for (int64_t i = 0; i < p.sequences; ++i) {
      first_[static_cast<size_t>(i)] = rows;
      rows += p.sequence[i].kv_len * p.kv_heads;
    }
    data_.resize(static_cast<size_t>(rows * dim));
  }
  double* row(const Sequence& s, int64_t kv_head, int64_t key) {
    const int64_t first = first_[static_cast<size_t>(&s - problem_.sequence)];
    return data_.data() + (first + kv_head * s.kv_len + key) * dim_;
  }
  template <class T>
  void write(const Heads& out) {
    for (int64_t i = 0; i < problem_.sequences; ++i) {
      const Sequence& s = problem_.sequence[i];
      for (int64_t head = 0; head < problem_.kv_heads; ++head) {
        for (int64_t key = 0; key < s.kv_len; ++key) {
          const double* from = row(s, head, key);
          T* to = key_row<T>(out, s, head, key);
          for (int64_t d = 0; d < dim_; ++d) to[d] = from_double<T>(from[d]);
        }
      }
    }
  }

 private:
  const Problem& problem_;
  int64_t dim_;
  std::vector<int64_t> first_;
  std::vector<double> data_;
};

// With g = dropout(grad_out v^T):  grad_score = w * (g - grad_out . out + grad_lse); a sink's is that with g
// = 0.
template <class T>
void backward_as(const Backward& b) {
  using Acc = Accumulator<T>;
  const Problem& p = b.problem;
  KeyGradients grad_k(p, p.head_dim), grad_v(p, p.value_dim);
  std::vector<double> grad_q(static_cast<size_t>(p.head_dim)), grad_sink(static_cast<size_t>(p.heads));
  for_each_row(p, [&](const Row& r) {
    const int64_t index = row_index(p, r.s, r.head, r.query);
    const Weights w = softmax_row<T>(p, r);
    const T* grad_out = query_row<const T>(b.grad_out, r.s, r.head, r.query);
    const T* q = query_row<const T>(p.q, r.s, r.head, r.query);
    double delta = 0;
    if (w.lse != kMasked) {
      delta = dot(grad_out, query_row<const T>(b.out, r.s, r.head, r.query), p.value_dim);
      if (b.grad_lse) delta -= static_cast<const Acc*>(b.grad_lse)[index];
      if (p.sink_logits) {
        grad_sink[static_cast<size_t>(r.head)] -= std::exp(p.sink_logits[r.head] - w.lse) * delta;
      }
    }
    grad_q.assign(grad_q.size(), 0.0);
    for (int64_t key = 0; key < r.s.kv_len; ++key) {
      const size_t j = static_cast<size_t>(key);
      if (w.weight[j] == 0.0) continue;
      const T *k = key_row<const T>(p.k, r.s, r.kv_head, key),
              *v = key_row<const T>(p.v, r.s, r.kv_head, key);
      const double grad_score = w.weight[j] * (w.kept[j] * dot(grad_out, v, p.value_dim) - delta);
      const double grad_dot = grad_score * w.slope[j];
      double* to_v = grad_v.row(r.s, r.kv_head, key);
      double* to_k = grad_k.row(r.s, r.kv_head, key);
      for (int64_t d = 0; d < p.value_dim; ++d) to_v[d] += w.weight[j] * w.kept[j] * to_double(grad_out[d]);
      for (int64_t d = 0; d < p.head_dim; ++d) {
        to_k[d] += grad_dot * to_double(q[d]);
        grad_q[static_cast<size_t>(d)] += grad_dot * to_double(k[d]);
      }
      if (b.grad_mask) {
        const int64_t row = mask_row(b.grad_mask_strides, r.s, r.head, r.query);
        b.grad_mask[row + key * b.grad_mask_strides.key] += grad_score;
      }
    }
    T* to_q = query_row<T>(b.grad_q, r.s, r.head, r.query);
    for (size_t d = 0; d < grad_q.size(); ++d) to_q[d] = from_double<T>(grad_q[d]);
  });
  grad_k.write<T>(b.grad_k);
  grad_v.write<T>(b.grad_v);
  for (size_t h = 0; b.grad_sink && h < grad_sink.size(); ++h) {
    static_cast<Acc*>(b.grad_sink)[h] = static_cast<Acc>(grad_sink[h]);
  }
}

}  // namespace

const Kernels kernels_scalar = {
    [](const Forward& f) {
      visit(f.problem.dtype, [&](auto zero) {
        f.problem.pages.data ? forward_paged_as<decltype(zero)>(f) : forward_as<decltype(zero)>(f);
      });
    },
};
const BackwardKernels backward_kernels_scalar = {
    [](const Backward& b) { visit(b.problem.dtype, [&](auto zero) { backward_as<decltype(zero)>(b); }); },
};

}  // namespace pyllm::attention
