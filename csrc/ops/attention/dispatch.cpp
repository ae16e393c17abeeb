#include <vector>

#include "core/levels.h"
#include "core/parallel.h"
#include "ops/attention/attention.h"
#include "ops/attention/geometry.h"
#include "ops/attention/quantized_kv.h"

namespace pyllm::attention {

PYLLM_DECLARE_PORTABLE(Kernels, kernels);
PYLLM_DECLARE_PORTABLE(BackwardKernels, backward_kernels);
PYLLM_DECLARE_AMX(Kernels, kernels);
PYLLM_DECLARE_AMX(BackwardKernels, backward_kernels);

namespace {

constexpr Levels<Kernels> kForward = {.scalar = &kernels_scalar,
                                      PYLLM_PORTABLE_LEVELS(kernels) PYLLM_AMX_LEVEL(kernels)};
constexpr Levels<BackwardKernels> kBackward = {.scalar = &backward_kernels_scalar,
                                               PYLLM_PORTABLE_LEVELS(backward_kernels)
                                                   PYLLM_AMX_LEVEL(backward_kernels)};

// Doubles always run the reference.
template <class Table>
const Table& table_for(const Levels<Table>& levels, DType dtype) {
  return dtype == DType::f64 ? *levels.scalar : levels.active();
}

void count_tiles(Problem& p) {
  p.tiles = p.blocks = 0;
  for (int64_t i = 0; i < p.sequences; ++i) {
    Sequence& s = p.sequence[i];
    s.tiles_before = p.tiles;
    s.blocks_before = p.blocks;
    p.tiles += ceil_div(s.q_len, tile_queries(p));
    p.blocks += ceil_div(s.kv_len, kBlock);
  }
}

// f(token, kv head, its page in data of Element) for all tokens of all heads.
template <class Element, class F>
void for_each_token(const WriteKv& w, const F& f) {
  constexpr int64_t kGrain = 64;  // tokens x heads that pay for a thread
  parallel_for(0, w.kv_heads * w.tokens, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const WriteKv::Token& token = w.token[i % w.tokens];
      const int64_t head = i / w.tokens;
      f(token, head, static_cast<Element*>(w.data) + token.page * w.page_stride + head * w.head_stride);
    }
  });
}

template <class T>
const T* row_of(const Heads& x, const WriteKv::Token& token, int64_t head) {
  return static_cast<const T*>(x.data) + token.batch * x.batch + head * x.head + token.row * x.token;
}

template <class T>
void write_codes(const WriteKv& w) {
  const QuantizedLayout at =
      quantized_layout(w.code, w.layout.page_size, w.layout.head_dim, w.layout.value_dim);
  const auto floats = [](const T* from, int64_t count, std::vector<float>& to) {
    to.resize(static_cast<size_t>(count));
    for (size_t d = 0; d < to.size(); ++d) to[d] = static_cast<float>(to_accumulator(from[d]));
    return to.data();
  };
  for_each_token<uint8_t>(w, [&](const WriteKv::Token& token, int64_t head, uint8_t* page) {
    thread_local std::vector<float> key, value;
    quantize_token(at, token.slot, floats(row_of<T>(w.k, token, head), at.head_dim, key),
                   floats(row_of<T>(w.v, token, head), at.value_dim, value), page);
  });
}

}  // namespace

void forward(Forward f) {
  count_tiles(f.problem);
  table_for(kForward, f.problem.dtype).forward(f);
}

void backward(Backward b) {
  count_tiles(b.problem);
  table_for(kBackward, b.problem.dtype).backward(b);
}

// Copies, or scalar arithmetic: the same at every level.
void write_kv(const WriteKv& w) {
  visit(w.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (w.code != KvCode::none) return write_codes<T>(w);
    for_each_token<T>(w, [&](const WriteKv::Token& token, int64_t head, T* page) {
      pack_token(w.layout, token.slot, row_of<T>(w.k, token, head), row_of<T>(w.v, token, head), page);
    });
  });
}

}  // namespace pyllm::attention
