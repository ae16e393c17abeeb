// bf16 with tile registers (core/amx_tiles.h); the other dtypes run the kernels of the level below. Loops in
// bf16.h, tile map in core/amx_multiply.h. Nothing here has been timed on a machine with tiles.
#include "core/amx_multiply.h"
#include "core/levels.h"
#include "ops/linear_cross_entropy/bf16.h"

namespace pyllm::linear_cross_entropy {

extern const Kernels kernels_avx512;

namespace {

struct TileKernel {
  using Scope = AllTiles;
  static constexpr Form kLeft = Form::rows;

  static void multiply(const TileSource& a, const TileSource& b, int64_t steps, bool add, float* c,
                       int64_t stride) {
    const int64_t bytes = stride * int64_t{sizeof(float)};
    float* below = c + kAmxRows * stride;
    zero_sums<2, 2>();
    if (add) {
      load_tile<0>(c, bytes);
      load_tile<1>(c + kAmxColumns, bytes);
      load_tile<2>(below, bytes);
      load_tile<3>(below + kAmxColumns, bytes);
    }
    pyllm::multiply<2, 2>(a, b, steps);
    store_tile<0>(c, bytes);
    store_tile<1>(c + kAmxColumns, bytes);
    store_tile<2>(below, bytes);
    store_tile<3>(below + kAmxColumns, bytes);
  }
};

void run_forward(const Problem& p, const Rows& rows, Statistics* out) {
  if (p.dtype != DType::bf16) return kernels_avx512.forward(p, rows, out);
  forward_bf16<TileKernel>(p, rows, out);
}

void run_backward(const Backward& b, const Rows& rows, const Coefficients* coefficients) {
  if (b.problem.dtype != DType::bf16) return kernels_avx512.backward(b, rows, coefficients);
  backward_bf16<TileKernel>(b, rows, coefficients);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_forward, run_backward};

}  // namespace pyllm::linear_cross_entropy
