#include "core/levels.h"
#include "core/parallel.h"
#include "ops/attention/attention.h"
#include "ops/attention/geometry.h"

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

}  // namespace

void forward(Forward f) {
  count_tiles(f.problem);
  table_for(kForward, f.problem.dtype).forward(f);
}

void backward(Backward b) {
  count_tiles(b.problem);
  table_for(kBackward, b.problem.dtype).backward(b);
}

// Only copies: the same at every level.
void write_kv(const WriteKv& w) {
  constexpr int64_t kGrain = 64;  // tokens x heads that pay for a thread
  visit(w.dtype, [&](auto zero) {
    using T = decltype(zero);
    parallel_for(0, w.kv_heads * w.tokens, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const WriteKv::Token& token = w.token[i % w.tokens];
        const int64_t head = i / w.tokens;
        const auto row = [&](const Heads& x) {
          return static_cast<const T*>(x.data) + token.batch * x.batch + head * x.head + token.row * x.token;
        };
        T* page = static_cast<T*>(w.data) + token.page * w.page_stride + head * w.head_stride;
        pack_token(w.layout, token.slot, row(w.k), row(w.v), page);
      }
    });
  });
}

}  // namespace pyllm::attention
