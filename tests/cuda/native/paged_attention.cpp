#include <optional>

#include "cases.h"
#include "ops/attention/cuda_paged.h"

namespace pyllm::test {
namespace {

using attention::Heads;
using attention::PageLayout;
using attention::Sequence;

Heads heads_of(Values& x, int64_t heads, int64_t tokens, int64_t dim) {
  return {x.data(), tokens * heads * dim, dim, heads * dim};
}

// A cache of shuffled pages, and what it is asked for.
struct Case {
  DType dtype = DType::bf16;
  int64_t sequences, kv_heads, group, q_len, head_dim, value_dim;
  PageLayout layout;
  int64_t columns, pages;
  bool packed;
  std::vector<int64_t> lengths, chunks, ends = {0}, table;

  explicit Case(Dice& dice) {
    if (dice.coin()) dtype = DType::f16;
    sequences = dice.number(1, 3);
    kv_heads = dice.number(1, 2);
    group = dice.number(1, 7);
    head_dim = 8 * (dice.coin() ? dice.number(1, 8) : dice.number(1, 16));
    value_dim = dice.coin() ? head_dim : 8 * dice.number(1, head_dim / 8);
    packed = dice.coin();
    const int64_t page_size = int64_t{16} << dice.number(0, 4);
    layout = attention::page_layout(dtype, page_size, head_dim, value_dim);
    const int64_t most = dice.coin() ? dice.number(0, 600) : dice.number(0, 60);
    columns = most / page_size + dice.number(1, 2);
    pages = sequences * columns + 2;
    for (int64_t i = 0; i < sequences; ++i) {
      lengths.push_back(i ? dice.number(0, most) : most);
      chunks.push_back(dice.number(packed ? 0 : 1, 5));
    }
    q_len = packed ? 0 : chunks[0];
    for (int64_t& chunk : chunks) {
      if (!packed) chunk = q_len;
      ends.push_back(ends.back() + chunk);
    }
    if (packed) q_len = ends.back();
    for (int64_t i = 0; i < sequences * columns; ++i) table.push_back((i * 7 + 3) % pages);
  }
  int64_t batch() const { return packed ? 1 : sequences; }
  int64_t page_elements() const { return layout.elements(); }
};

// Keys and values through the CUDA kernel, beside pack_token of the CPU, in pages of NaN.
void check_writing(const Case& c, Values& cache, Dice& dice) {
  int64_t tokens = 0;
  for (int64_t length : c.lengths) tokens = std::max(tokens, length);
  Values k = Values::random(c.dtype, c.sequences * tokens * c.kv_heads * c.head_dim, 2);
  Values v = Values::random(c.dtype, c.sequences * tokens * c.kv_heads * c.value_dim, 3);
  std::vector<int64_t> positions;
  for (int64_t length : c.lengths) {
    for (int64_t i = 0; i < tokens; ++i)
      positions.push_back(i < length ? i : dice.coin() ? -1 : int64_t{1} << 40);
  }
  Values expected = Values::filled(c.dtype, cache.count(), NAN);
  const int64_t head_stride = c.page_elements(), page_stride = head_stride * c.kv_heads;
  attention::write_kv(attention::CudaWriteKv{
      .sequences = c.sequences,
      .batch = c.sequences,
      .kv_heads = c.kv_heads,
      .q_len = tokens,
      .k = heads_of(k, c.kv_heads, tokens, c.head_dim),
      .v = heads_of(v, c.kv_heads, tokens, c.value_dim),
      .pages = {cache.data(), c.layout, page_stride, head_stride, c.pages, {c.table.data(), true}, c.columns},
      .positions = {positions.data(), true},
      .q_borders = {}});
  for (int64_t n = 0; n < c.sequences * tokens; ++n) {
    const int64_t position = n % tokens, sequence = n / tokens, page_size = c.layout.page_size;
    if (position >= c.lengths[static_cast<size_t>(sequence)]) continue;
    const int64_t page = c.table[static_cast<size_t>(sequence * c.columns + position / page_size)];
    for (int64_t head = 0; head < c.kv_heads; ++head) {
      const int64_t row = n * c.kv_heads + head;
      attention::pack_token(c.layout, position % page_size, k.as<uint16_t>() + row * c.head_dim,
                            v.as<uint16_t>() + row * c.value_dim,
                            expected.as<uint16_t>() + page * page_stride + head * head_stride);
    }
  }
  CHECK(cache.same_bits(expected));
}

}  // namespace

void paged_attention_case(Dice& dice) {
  const Case c(dice);
  if (c.pages % 7 == 0) return;  // the table would name pages twice
  const int64_t heads = c.kv_heads * c.group, head_stride = c.page_elements();
  Values cache = Values::filled(c.dtype, c.pages * c.kv_heads * head_stride, NAN);
  check_writing(c, cache, dice);
  Values q = Values::random(c.dtype, c.batch() * c.q_len * heads * c.head_dim, 1);
  std::vector<double> sinks, slopes;
  for (int64_t h = 0; h < heads; ++h) {
    sinks.push_back(0.25 * static_cast<double>(h) - 1);
    slopes.push_back(0.125 / static_cast<double>(h + 1));
  }
  const std::vector<float> narrow_sinks(sinks.begin(), sinks.end()),
      narrow_slopes(slopes.begin(), slopes.end());
  const bool with_sinks = dice.coin(), alibi = dice.coin();
  const double softcap = dice.coin() ? 2.0 : 0.0, scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  const IntervalMask intervals = {dice.coin(), dice.coin() ? dice.number(1, 100) : 0,
                                  dice.coin() ? dice.number(0, 70) : 0};
  std::vector<int64_t> prefixes;
  std::vector<Sequence> sequences;
  for (int64_t i = 0; i < c.sequences; ++i) {
    const auto n = static_cast<size_t>(i);
    prefixes.push_back(dice.coin() ? dice.number(0, 80) : 0);
    Sequence s = {};
    s.batch = c.packed ? 0 : i;
    s.first_query = c.packed ? c.ends[n] : 0;
    s.q_len = c.chunks[n];
    s.kv_len = c.lengths[n];
    s.prefix = prefixes.back();
    s.first_page = i * c.columns;
    sequences.push_back(s);
  }
  std::vector<Values> simulated, reference;
  for (std::vector<Values>* results : {&simulated, &reference}) {
    results->push_back(Values::filled(c.dtype, c.batch() * c.q_len * heads * c.value_dim, 0));
    results->push_back(Values::filled(DType::f32, c.batch() * heads * c.q_len, 0));
  }
  const auto out_of = [&](Values& x) { return heads_of(x, heads, c.q_len, c.value_dim); };
  attention::forward(
      attention::CudaPaged{.forward = {.dtype = c.dtype,
                                       .sequences = c.sequences,
                                       .heads = heads,
                                       .kv_heads = c.kv_heads,
                                       .head_dim = c.head_dim,
                                       .value_dim = c.value_dim,
                                       .q_len = c.q_len,
                                       .kv_len = c.columns * c.layout.page_size,
                                       .q = heads_of(q, heads, c.q_len, c.head_dim),
                                       .k = {},
                                       .v = {},
                                       .out = out_of(simulated[0]),
                                       .lse = simulated[1].as<float>(),
                                       .intervals = intervals,
                                       .prefix = {prefixes.data(), true},
                                       .kv_lengths = {c.lengths.data(), true},
                                       .q_borders = {c.packed ? c.ends.data() : nullptr, true},
                                       .k_borders = {},
                                       .sink_logits = with_sinks ? narrow_sinks.data() : nullptr,
                                       .alibi_slopes = alibi ? narrow_slopes.data() : nullptr,
                                       .scale = static_cast<float>(scale),
                                       .softcap = static_cast<float>(softcap)},
                           .pages = {cache.data(),
                                     c.layout,
                                     c.kv_heads * head_stride,
                                     head_stride,
                                     c.pages,
                                     {c.table.data(), true},
                                     c.columns}});
  attention::Problem p = {};
  p.dtype = c.dtype;
  p.sequences = c.sequences;
  p.heads = heads;
  p.kv_heads = c.kv_heads;
  p.head_dim = c.head_dim;
  p.value_dim = c.value_dim;
  p.tokens = c.q_len;
  p.sequence = sequences.data();
  p.q = heads_of(q, heads, c.q_len, c.head_dim);
  p.intervals = intervals;
  p.sink_logits = with_sinks ? sinks.data() : nullptr;
  p.alibi_slopes = alibi ? slopes.data() : nullptr;
  p.scale = scale;
  p.softcap = softcap;
  p.pages = {cache.data(), c.layout, c.kv_heads * head_stride, head_stride, c.table.data()};
  attention::kernels_scalar.forward({p, out_of(reference[0]), reference[1].data()});
  hide_rows_without_keys(simulated[1], reference[1]);
  check_near(simulated, reference);
}

}  // namespace pyllm::test
