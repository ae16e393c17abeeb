#include "ops/attention/attention.h"

#include "harness.h"

namespace pyllm::test {
namespace {

using attention::Heads;
using attention::MaskStrides;

struct AttentionShape {
  int64_t batch, heads, kv_heads, q_len, kv_len, head_dim, value_dim;
  int64_t window;
  bool biased;
};

Heads heads_of(Values& x, int64_t heads, int64_t tokens, int64_t dim) {
  return {x.data(), heads * tokens * dim, tokens * dim, dim};
}

// Forward and backward under every kind of mask; batch row 0 has 3 keys fewer than the tensors.
std::vector<Values> attend(DType dtype, const AttentionShape& s) {
  const int64_t rows = s.batch * s.heads * s.q_len, keys = s.batch * s.kv_heads * s.kv_len;
  const DType wide = dtype == DType::f64 ? DType::f64 : DType::f32;
  Values q = Values::random(dtype, rows * s.head_dim, 1), k = Values::random(dtype, keys * s.head_dim, 2);
  Values v = Values::random(dtype, keys * s.value_dim, 3),
         bias = Values::random(dtype, s.q_len * s.kv_len, 4);
  Values grad_out = Values::random(dtype, rows * s.value_dim, 5), grad_lse = Values::random(wide, rows, 6);
  std::vector<Values> out;
  for (int64_t count : {rows * s.value_dim, rows * s.head_dim})
    out.push_back(Values::random(dtype, count, 7));
  // Keys past a row's length are left as they were.
  for (int64_t count : {keys * s.head_dim, keys * s.value_dim})
    out.push_back(Values::random(dtype, count, 8));
  out.emplace_back(wide, rows);
  std::vector<attention::Sequence> sequences;
  for (int64_t n = 0; n < s.batch; ++n) {
    sequences.push_back({.batch = n,
                         .first_query = 0,
                         .q_len = s.q_len,
                         .first_key = 0,
                         .kv_len = n == 0 ? s.kv_len - 3 : s.kv_len,
                         .prefix = n == 0 ? 0 : 2,
                         .tiles_before = 0,
                         .blocks_before = 0});
  }
  const std::vector<double> sinks(static_cast<size_t>(s.heads), 0.3), slopes(sinks.size(), 0.05);
  std::vector<double> grad_bias(static_cast<size_t>(s.q_len * s.kv_len));
  Values grad_sink(wide, s.heads);
  const MaskStrides strides = {0, 0, s.kv_len, 1};
  attention::Problem p = {.dtype = dtype,
                          .sequences = s.batch,
                          .heads = s.heads,
                          .kv_heads = s.kv_heads,
                          .head_dim = s.head_dim,
                          .value_dim = s.value_dim,
                          .tokens = s.q_len,
                          .sequence = sequences.data(),
                          .q = heads_of(q, s.heads, s.q_len, s.head_dim),
                          .k = heads_of(k, s.kv_heads, s.kv_len, s.head_dim),
                          .v = heads_of(v, s.kv_heads, s.kv_len, s.value_dim),
                          .intervals = {.causal = true, .window = s.window, .sink_tokens = 1},
                          .mask = {s.biased ? bias.data() : nullptr, false, dtype, strides},
                          .sink_logits = sinks.data(),
                          .alibi_slopes = slopes.data(),
                          .scale = 0.2,
                          .softcap = s.biased ? 4.0 : 0.0,
                          .dropout_p = s.biased ? 0.25 : 0.0,
                          .seed = 11,
                          .tiles = 0,
                          .blocks = 0};
  const Heads result = heads_of(out[0], s.heads, s.q_len, s.value_dim);
  attention::forward({p, result, out[4].data()});
  attention::backward({.problem = p,
                       .out = result,
                       .grad_out = heads_of(grad_out, s.heads, s.q_len, s.value_dim),
                       .lse = out[4].data(),
                       .grad_lse = grad_lse.data(),
                       .grad_q = heads_of(out[1], s.heads, s.q_len, s.head_dim),
                       .grad_k = heads_of(out[2], s.kv_heads, s.kv_len, s.head_dim),
                       .grad_v = heads_of(out[3], s.kv_heads, s.kv_len, s.value_dim),
                       .grad_mask = s.biased ? grad_bias.data() : nullptr,
                       .grad_mask_strides = strides,
                       .grad_sink = grad_sink.data()});
  out.push_back(std::move(grad_sink));
  return out;
}

}  // namespace

// One head dimension in parts of a vector, several tiles and blocks, and each schedule: few heads with long
// and with short queries, many heads.
void test_attention() {
  for (const AttentionShape& shape :
       {AttentionShape{1, 2, 1, 5, 9, 7, 3, 0, true}, AttentionShape{1, 2, 1, 60, 290, 17, 8, 20, false},
        AttentionShape{1, 4, 2, 2, 270, 16, 33, 0, false}, AttentionShape{4, 2, 2, 9, 12, 5, 5, 4, true}}) {
    check_levels_and_threads([&](DType dtype) { return attend(dtype, shape); });
  }
}

}  // namespace pyllm::test
