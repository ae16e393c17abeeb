// bf16 products by VDPBF16PS, where the avx512 level has it: chosen once per machine, for every number of
// rows.
//
// Arithmetic: blocks of 256 k's in ascending order, each one chain of pairs from zero, zero-filled at the
// end; then the bias in float, then one rounding. It is not AMX's order and not that of fused multiply-adds,
// so a machine keeps to it for all its bf16 products of this level.
//
// The loops are those of blocked.h; both operands are packed as pairs of k's, and panels of 32 rows meet in
// tiles of 8 rows x 2 vectors of sums:
//
//        16 columns  16 columns          per pair of k's: 2 loads of B, 8 broadcasts of A, 16 products
//      +-----------+-----------+         16 chains cover a latency of 16 cycles at one product per cycle
//    8 | sums[][0] | sums[][1] |         1 KB of B per 128 products stays in the first-level cache (16 KB a
//    chunk)
//      +-----------+-----------+
//
//   Per pair of panels and chunk of 256 k's: 4096 products, 16 KB from the second-level cache, 8 KB of sums:
//   4 to 6 B/cycle. Packing costs 0.1 cycles an element, its products a cycle for every 32 rows of the other
//   operand: a third of the time at 10 rows, 2% at 150. One row needs a chunk's bytes at the speed of memory,
//   0.3 cycles an element with packing (count), and memory gives one in 0.7.
//
// Nothing here has been timed on a machine with the instruction.
#include "core/dot_bf16_panels.h"
#include "core/levels.h"
#include "ops/linear/blocked.h"
#include "ops/linear/linear.h"

namespace pyllm::linear {
namespace {

constexpr int64_t kChainSteps = 8;  // 256 k's

struct NoScope {};

struct PairKernel {
  using Scope = NoScope;

  static int64_t chunk_steps(int64_t) { return kChainSteps; }

  static void multiply(const Pair& pair) { dot_panels(pair); }
};

// Only bf16 products come here.
void run_product(const Product& p) {
  if (p.rows == 0 || p.columns == 0) return;
  const auto plan_with = [&](bool resident_is_left) {
    return make_plan(p, resident_is_left, resident_is_left, Form::pairs, Form::pairs);
  };
  const Plan plan = cheaper(plan_with(true), plan_with(false));
  p.out_dtype == DType::f32 ? blocked_product<PairKernel, float>(p, plan)
                            : blocked_product<PairKernel, bfloat16>(p, plan);
}

}  // namespace

extern const Kernels kernels_avx512_bf16;
const Kernels kernels_avx512_bf16 = {run_product};

}  // namespace pyllm::linear
