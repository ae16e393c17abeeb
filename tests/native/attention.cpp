#include "ops/attention/attention.h"

#include "harness.h"
#include "ops/attention/quantized_kv.h"

namespace pyllm::test {
namespace {

using attention::Heads;
using attention::MaskStrides;

struct AttentionShape {
  int64_t batch, heads, kv_heads, q_len, kv_len, head_dim, value_dim;
  int64_t window = 0;
  bool biased = false;  // an additive mask, softcap and dropout
  bool causal = true;
  int64_t missing = 3;  // keys that batch row 0 has fewer than the tensors
  int64_t prefix = 2;   // of the other rows
  int64_t sink_tokens = 1;
  bool token_major = false;  // (batch, tokens, heads, dim) in memory
  int64_t page_size = 64;
};

// Inputs under every kind of mask, and the problem that points at them.
struct Attention {
  AttentionShape s;
  Values q, k, v, bias;
  std::vector<attention::Sequence> sequences;
  std::vector<double> sinks, slopes;
  attention::Problem problem;

  Attention(DType dtype, const AttentionShape& shape)
      : s(shape),
        q(Values::random(dtype, s.batch * s.heads * s.q_len * s.head_dim, 1)),
        k(Values::random(dtype, s.batch * s.kv_heads * s.kv_len * s.head_dim, 2)),
        v(Values::random(dtype, s.batch * s.kv_heads * s.kv_len * s.value_dim, 3)),
        bias(Values::random(dtype, s.q_len * s.kv_len, 4)),
        sinks(static_cast<size_t>(s.heads), 0.3),
        slopes(sinks.size(), 0.05) {
    for (int64_t n = 0; n < s.batch; ++n) {
      sequences.push_back({.batch = n,
                           .first_query = 0,
                           .q_len = s.q_len,
                           .first_key = 0,
                           .kv_len = n == 0 ? std::max<int64_t>(s.kv_len - s.missing, 0) : s.kv_len,
                           .prefix = n == 0 ? 0 : s.prefix,
                           .tiles_before = 0,
                           .blocks_before = 0});
    }
    problem = {.dtype = dtype,
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
               .intervals = {.causal = s.causal, .window = s.window, .sink_tokens = s.sink_tokens},
               .mask = {s.biased ? bias.data() : nullptr, false, dtype, mask_strides()},
               .sink_logits = sinks.data(),
               .alibi_slopes = slopes.data(),
               .scale = 0.2,
               .softcap = s.biased ? 4.0 : 0.0,
               .dropout_p = s.biased ? 0.25 : 0.0,
               .seed = 11,
               .tiles = 0,
               .blocks = 0};
  }
  Attention(const Attention&) = delete;

  DType wide() const { return problem.dtype == DType::f64 ? DType::f64 : DType::f32; }
  int64_t rows() const { return s.batch * s.heads * s.q_len; }
  MaskStrides mask_strides() const { return {0, 0, s.kv_len, 1}; }
  Heads heads_of(Values& x, int64_t heads, int64_t tokens, int64_t dim) const {
    return s.token_major ? Heads{x.data(), heads * tokens * dim, dim, heads * dim}
                         : Heads{x.data(), heads * tokens * dim, tokens * dim, dim};
  }
};

// out, grad_q, grad_k, grad_v, lse, grad_sink and the mask's gradient.
std::vector<Values> attend(DType dtype, const AttentionShape& s) {
  Attention a(dtype, s);
  const int64_t keys = s.batch * s.kv_heads * s.kv_len;
  Values grad_out = Values::random(dtype, a.rows() * s.value_dim, 5),
         grad_lse = Values::random(a.wide(), a.rows(), 6);
  std::vector<Values> out;
  for (int64_t count : {a.rows() * s.value_dim, a.rows() * s.head_dim})
    out.push_back(Values::random(dtype, count, 7));
  // Keys past a row's length are left as they were.
  for (int64_t count : {keys * s.head_dim, keys * s.value_dim})
    out.push_back(Values::random(dtype, count, 8));
  out.emplace_back(a.wide(), a.rows());
  out.emplace_back(a.wide(), s.heads);
  out.emplace_back(DType::f64, s.biased ? s.q_len * s.kv_len : 0);
  std::fill_n(out[6].as<double>(), out[6].count(), 0.0);
  const Heads result = a.heads_of(out[0], s.heads, s.q_len, s.value_dim);
  attention::forward({a.problem, result, out[4].data()});
  attention::backward({.problem = a.problem,
                       .out = result,
                       .grad_out = a.heads_of(grad_out, s.heads, s.q_len, s.value_dim),
                       .lse = out[4].data(),
                       .grad_lse = grad_lse.data(),
                       .grad_q = a.heads_of(out[1], s.heads, s.q_len, s.head_dim),
                       .grad_k = a.heads_of(out[2], s.kv_heads, s.kv_len, s.head_dim),
                       .grad_v = a.heads_of(out[3], s.kv_heads, s.kv_len, s.value_dim),
                       .grad_mask = s.biased ? out[6].as<double>() : nullptr,
                       .grad_mask_strides = a.mask_strides(),
                       .grad_sink = out[5].data()});
  return out;
}

// Pages for all of a problem's sequences, handed out backwards and full of ones (NaN, or garbage codes).
struct Pages {
  std::vector<int64_t> table;
  std::vector<attention::WriteKv::Token> tokens;
  attention::PageLayout layout;
  attention::KvCode code;
  Values memory;
  int64_t head_stride, page_stride;

  Pages(Attention& a, attention::KvCode kind)
      : layout(attention::page_layout(a.problem.dtype, a.s.page_size, a.s.head_dim, a.s.value_dim)),
        code(kind),
        memory(DType::f16, 0) {
    const AttentionShape& s = a.s;
    const int64_t pages_each = (s.kv_len + s.page_size - 1) / s.page_size, pages = s.batch * pages_each;
    const bool codes = code != attention::KvCode::none;
    head_stride = codes ? attention::quantized_layout(code, s.page_size, s.head_dim, s.value_dim).bytes()
                        : layout.elements();
    page_stride = s.kv_heads * head_stride;
    const int64_t bytes = pages * page_stride * (codes ? 1 : size_of(a.problem.dtype));
    memory = Values(DType::f16, (bytes + 1) / 2);
    std::memset(memory.data(), 0xff, static_cast<size_t>(memory.count() * 2));
    for (int64_t page = pages; page-- > 0;) table.push_back(page);
    for (attention::Sequence& sequence : a.sequences) {
      sequence.first_page = sequence.batch * pages_each;
      for (int64_t row = 0; row < sequence.kv_len; ++row) {
        const int64_t page = table[static_cast<size_t>(sequence.first_page + row / s.page_size)];
        tokens.push_back({sequence.batch, row, page, row % s.page_size});
      }
    }
  }

  void write(const Attention& a) {
    attention::write_kv({a.problem.dtype, a.s.kv_heads, a.problem.k, a.problem.v, memory.data(), layout,
                         page_stride, head_stride, tokens.data(), static_cast<int64_t>(tokens.size()), code});
  }
  attention::PagedKeys keys() {
    return {memory.data(), layout, page_stride, head_stride, table.data(), code};
  }
};

// out and lse.
std::vector<Values> forward(const Attention& a, const attention::Problem& problem) {
  std::vector<Values> out;
  out.emplace_back(problem.dtype, a.rows() * a.s.value_dim);
  out.emplace_back(a.wide(), a.rows());
  attention::forward({problem, a.heads_of(out[0], a.s.heads, a.s.q_len, a.s.value_dim), out[1].data()});
  return out;
}

// The same forward pass over pages has the bits of the one over tensors.
std::vector<Values> attend_pages(DType dtype, AttentionShape s) {
  s.biased = false;
  Attention a(dtype, s);
  Pages pages(a, attention::KvCode::none);
  pages.write(a);
  const std::vector<Values> dense = forward(a, a.problem);
  a.problem.pages = pages.keys();
  a.problem.k = a.problem.v = {};
  std::vector<Values> out = forward(a, a.problem);
  CHECK(out[0].same_bits(dense[0]));
  CHECK(out[1].same_bits(dense[1]));
  return out;
}

std::vector<Values> attend_codes(DType dtype, AttentionShape s, attention::KvCode code) {
  s.biased = false;
  Attention a(dtype, s);
  Pages pages(a, code);
  pages.write(a);
  a.problem.pages = pages.keys();
  a.problem.k = a.problem.v = {};
  return forward(a, a.problem);
}

void check_attention(const AttentionShape& shape) {
  check_levels_and_threads([&](DType dtype) { return attend(dtype, shape); });
  check_levels_and_threads([&](DType dtype) { return attend_pages(dtype, shape); });
  for (const attention::KvCode code : {attention::KvCode::int8, attention::KvCode::int4}) {
    check_levels_and_threads([&](DType dtype) { return attend_codes(dtype, shape, code); });
  }
}

}  // namespace

// One head dimension in parts of a vector, several tiles and blocks, and each schedule: few heads with long
// and with short queries, many heads.
void test_attention() {
  check_attention({.batch = 1,
                   .heads = 2,
                   .kv_heads = 1,
                   .q_len = 5,
                   .kv_len = 9,
                   .head_dim = 7,
                   .value_dim = 3,
                   .biased = true});
  check_attention({.batch = 1,
                   .heads = 2,
                   .kv_heads = 1,
                   .q_len = 60,
                   .kv_len = 290,
                   .head_dim = 17,
                   .value_dim = 8,
                   .window = 20});
  check_attention({.batch = 1,
                   .heads = 4,
                   .kv_heads = 2,
                   .q_len = 2,
                   .kv_len = 270,
                   .head_dim = 16,
                   .value_dim = 33,
                   .page_size = 16});
  check_attention({.batch = 4,
                   .heads = 2,
                   .kv_heads = 2,
                   .q_len = 9,
                   .kv_len = 12,
                   .head_dim = 5,
                   .value_dim = 5,
                   .window = 4,
                   .biased = true,
                   .token_major = true});
}

void fuzz_attention(Dice& dice) {
  const int64_t kv_heads = dice.number(1, 2), kv_len = dice.size(dice.number(0, 3) == 0 ? 530 : 60);
  check_attention({.batch = dice.number(1, 2),
                   .heads = kv_heads * dice.number(1, 3),
                   .kv_heads = kv_heads,
                   .q_len = dice.coin() ? dice.number(1, 3) : dice.size(40),
                   .kv_len = kv_len,
                   .head_dim = dice.size(70),
                   .value_dim = dice.size(70),
                   .window = dice.coin() ? 0 : dice.size(kv_len),
                   .biased = dice.coin(),
                   .causal = dice.coin(),
                   .missing = dice.number(0, kv_len),
                   .prefix = dice.number(0, kv_len),
                   .sink_tokens = dice.number(0, 5),
                   .token_major = dice.coin(),
                   .page_size = int64_t{16} << dice.number(0, 4)});
}

}  // namespace pyllm::test
