// bf16 by VDPBF16PS, where the avx512 level has it. Loops in bf16.h, register tile in core/dot_bf16_panels.h;
// sums are chains of 256 products, those of ops/linear. Nothing here has been timed on a machine with the
// instruction.
#include "core/dot_bf16_panels.h"
#include "core/levels.h"
#include "ops/linear_cross_entropy/bf16.h"

namespace pyllm::linear_cross_entropy {
namespace {

struct NoScope {};

struct PairKernel {
  using Scope = NoScope;
  static constexpr Form kLeft = Form::pairs;
  static constexpr int64_t kChainSteps = 8;

  static void multiply(const TileSource& a, const TileSource& b, int64_t steps, bool add, float* c,
                       int64_t stride) {
    alignas(kCacheLine) float sums[kPairSums] = {};
    for (int64_t step = 0; step < steps; step += kChainSteps) {
      dot_panels({a.from(step), b.from(step), kPanelRows, kPanelRows, smaller(steps - step, kChainSteps),
                  sums, step == 0});
    }
    for (int64_t i = 0; i < kPanelRows; ++i) {
      for (int64_t j = 0; j < kPanelTiles; ++j) {
        const float* from = sums + (i / kTileRows * kPanelTiles + j) * kTileSums + i % kTileRows * kTileRows;
        float* to = c + i * stride + j * kTileRows;
        store(to, add ? load(to) + load(from) : load(from));
      }
    }
  }
};

}  // namespace

extern const Kernels kernels_avx512_bf16;
const Kernels kernels_avx512_bf16 = {forward_bf16<PairKernel>, backward_bf16<PairKernel>};

}  // namespace pyllm::linear_cross_entropy
