#include <optional>

#include "cases.h"
#include "ops/attention/cuda.h"

namespace pyllm::test {
namespace {

using attention::CudaForward;
using attention::Heads;
using attention::Integers;
using attention::Sequence;

// (batch, tokens, heads, dim) in memory.
Heads heads_of(Values& x, int64_t heads, int64_t tokens, int64_t dim) {
  return {x.data(), tokens * heads * dim, dim, heads * dim};
}

struct Case {
  DType dtype;
  int64_t sequences, kv_heads, group, q_len, kv_len, head_dim, value_dim;
  IntervalMask intervals;
  bool packed, wide, sinks, alibi, prefixes;
  double softcap, scale;
};

Case draw(Dice& dice) {
  Case c = {};
  c.dtype = dice.coin() ? DType::bf16 : DType::f16;
  c.sequences = dice.number(1, 3);
  c.kv_heads = dice.number(1, 2);
  c.group = dice.number(1, 5);
  c.q_len = dice.number(1, 150);
  c.kv_len = dice.number(1, 200);
  c.head_dim = 8 * (dice.coin() ? dice.number(1, 16) : dice.number(1, 32));
  c.value_dim = dice.coin() ? c.head_dim : 8 * dice.number(1, c.head_dim / 8);
  c.intervals = {dice.coin(), dice.coin() ? dice.number(1, 100) : 0, dice.coin() ? dice.number(0, 70) : 0};
  c.packed = dice.coin();
  c.wide = dice.coin();
  c.sinks = dice.coin();
  c.alibi = dice.coin();
  c.prefixes = dice.coin();
  c.softcap = dice.coin() ? 2.0 : 0.0;
  c.scale = dice.number(0, 9) ? 1 / std::sqrt(static_cast<double>(c.head_dim)) : -0.1;
  return c;
}

// Numbers as the op takes them, of either width.
class IndexVector {
 public:
  IndexVector(std::vector<int64_t> values, bool wide) : wide_(wide), values_(std::move(values)) {
    narrow_.assign(values_.begin(), values_.end());
  }
  Integers get() const { return {wide_ ? static_cast<const void*>(values_.data()) : narrow_.data(), wide_}; }

 private:
  bool wide_;
  std::vector<int64_t> values_;
  std::vector<int32_t> narrow_;
};

}  // namespace

void attention_case(Dice& dice) {
  const Case c = draw(dice);
  const int64_t heads = c.kv_heads * c.group, batch = c.packed ? 1 : c.sequences;
  Values q = Values::random(c.dtype, batch * c.q_len * heads * c.head_dim, 1);
  Values k = Values::random(c.dtype, batch * c.kv_len * c.kv_heads * c.head_dim, 2);
  Values v = Values::random(c.dtype, batch * c.kv_len * c.kv_heads * c.value_dim, 3);
  std::vector<int64_t> q_ends = {0}, k_ends = {0}, lengths, prefixes;
  std::vector<Sequence> sequences;
  for (int64_t i = 0; i < c.sequences; ++i) {
    const bool last = i + 1 == c.sequences;
    q_ends.push_back(last ? c.q_len : dice.number(q_ends.back(), c.q_len));
    k_ends.push_back(last ? c.kv_len : dice.number(k_ends.back(), c.kv_len));
    lengths.push_back(dice.number(0, c.kv_len));
    prefixes.push_back(c.prefixes ? dice.number(0, 80) : 0);
    Sequence s = {};
    s.batch = c.packed ? 0 : i;
    s.first_query = c.packed ? q_ends[static_cast<size_t>(i)] : 0;
    s.q_len = c.packed ? q_ends.back() - s.first_query : c.q_len;
    s.first_key = c.packed ? k_ends[static_cast<size_t>(i)] : 0;
    s.kv_len = c.packed ? k_ends.back() - s.first_key : lengths.back();
    s.prefix = prefixes.back();
    sequences.push_back(s);
  }
  std::vector<double> sinks, slopes;
  for (int64_t h = 0; h < heads; ++h) {
    sinks.push_back(0.25 * static_cast<double>(h) - 1);
    slopes.push_back(0.125 / static_cast<double>(h + 1));
  }
  const std::vector<float> narrow_sinks(sinks.begin(), sinks.end()),
      narrow_slopes(slopes.begin(), slopes.end());
  const IndexVector prefix(prefixes, c.wide), kv_lengths(lengths, c.wide), borders_q(q_ends, c.wide),
      borders_k(k_ends, c.wide);

  // out, lse, and the gradients of q, k, v and sinks.
  std::vector<Values> simulated, reference;
  for (std::vector<Values>* results : {&simulated, &reference}) {
    const auto add = [&](DType dtype, int64_t count) {
      results->push_back(Values::filled(dtype, count, 0));  // as rows that belong to no sequence stay
    };
    add(c.dtype, batch * c.q_len * heads * c.value_dim);
    add(DType::f32, batch * heads * c.q_len);
    add(c.dtype, q.count());
    add(c.dtype, k.count());
    add(c.dtype, v.count());
    add(DType::f32, heads);
  }
  const auto out_of = [&](Values& x) { return heads_of(x, heads, c.q_len, c.value_dim); };
  const auto queries_of = [&](Values& x) { return heads_of(x, heads, c.q_len, c.head_dim); };
  const auto keys_of = [&](Values& x) { return heads_of(x, c.kv_heads, c.kv_len, c.head_dim); };
  const auto values_of = [&](Values& x) { return heads_of(x, c.kv_heads, c.kv_len, c.value_dim); };
  const CudaForward forward = {
      .dtype = c.dtype,
      .sequences = c.sequences,
      .heads = heads,
      .kv_heads = c.kv_heads,
      .head_dim = c.head_dim,
      .value_dim = c.value_dim,
      .q_len = c.q_len,
      .kv_len = c.kv_len,
      .q = queries_of(q),
      .k = keys_of(k),
      .v = values_of(v),
      .out = out_of(simulated[0]),
      .lse = simulated[1].as<float>(),
      .intervals = c.intervals,
      .prefix = prefix.get(),
      .kv_lengths = c.packed ? Integers{} : kv_lengths.get(),
      .q_borders = c.packed ? borders_q.get() : Integers{},
      .k_borders = c.packed ? borders_k.get() : Integers{},
      .sink_logits = c.sinks ? narrow_sinks.data() : nullptr,
      .alibi_slopes = c.alibi ? narrow_slopes.data() : nullptr,
      .scale = static_cast<float>(c.scale),
      .softcap = static_cast<float>(c.softcap),
  };
  attention::forward(forward);
  attention::Problem p = {};
  p.dtype = c.dtype;
  p.sequences = c.sequences;
  p.heads = heads;
  p.kv_heads = c.kv_heads;
  p.head_dim = c.head_dim;
  p.value_dim = c.value_dim;
  p.tokens = c.q_len;
  p.sequence = sequences.data();
  p.q = queries_of(q);
  p.k = keys_of(k);
  p.v = values_of(v);
  p.intervals = c.intervals;
  p.sink_logits = c.sinks ? sinks.data() : nullptr;
  p.alibi_slopes = c.alibi ? slopes.data() : nullptr;
  p.scale = c.scale;
  p.softcap = c.softcap;
  attention::kernels_scalar.forward({p, out_of(reference[0]), reference[1].data()});

  // Both backward passes start from the simulated forward's results.
  Values grad_out = Values::random(c.dtype, reference[0].count(), 4);
  Values grad_lse = Values::random(DType::f32, reference[1].count(), 5);
  attention::backward({
      .forward = forward,
      .grad_out = out_of(grad_out),
      .grad_q = queries_of(simulated[2]),
      .grad_k = keys_of(simulated[3]),
      .grad_v = values_of(simulated[4]),
      .grad_lse = grad_lse.as<float>(),
      .grad_sink = c.sinks ? simulated[5].as<float>() : nullptr,
  });
  attention::backward_kernels_scalar.backward({
      .problem = p,
      .out = out_of(simulated[0]),
      .grad_out = out_of(grad_out),
      .lse = simulated[1].data(),
      .grad_lse = grad_lse.data(),
      .grad_q = queries_of(reference[2]),
      .grad_k = keys_of(reference[3]),
      .grad_v = values_of(reference[4]),
      .grad_mask = nullptr,
      .grad_mask_strides = {},
      .grad_sink = c.sinks ? reference[5].data() : nullptr,
  });
  hide_rows_without_keys(simulated[1], reference[1]);
  check_near(simulated, reference);
}

}  // namespace pyllm::test
