#include "core/levels.h"
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

}  // namespace pyllm::attention
