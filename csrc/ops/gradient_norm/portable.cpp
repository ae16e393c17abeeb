// One read of the tensor. Four accumulators hide the latency of the multiply-add.
#include "core/aligned.h"
#include "core/levels.h"
#include "core/parallel.h"
#include "core/vec.h"
#include "ops/gradient_norm/gradient_norm.h"

namespace pyllm::gradient_norm {
namespace {

constexpr int64_t kGrain = 16;  // blocks

template <class T>
double block_sum(const T* x, int64_t count) {
  constexpr int kChains = 4;
  Vec sums[kChains] = {};
  int64_t i = 0;
  for (; i + kChains * kLanes <= count; i += kChains * kLanes) {
    for (int chain = 0; chain < kChains; ++chain) {
      const Vec v = load(x + i + chain * kLanes);
      sums[chain] = fma(v, v, sums[chain]);
    }
  }
  for_each_vec(count - i, [&](int64_t offset, int64_t lanes) {
    const Vec v = load_lanes(x + i + offset, lanes);
    sums[0] = fma(v, v, sums[0]);
  });
  return static_cast<double>(reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3])));
}

template <class T>
double sum_as(const void* data, int64_t count) {
  const T* x = static_cast<const T*>(data);
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  const auto sums = make_aligned<double>(blocks);
  parallel_for(0, blocks, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t rest = count - block * kBlock;
      sums[static_cast<size_t>(block)] = block_sum(x + block * kBlock, rest < kBlock ? rest : kBlock);
    }
  });
  double total = 0;
  for (int64_t block = 0; block < blocks; ++block) total += sums[static_cast<size_t>(block)];
  return total;
}

double run(DType dtype, const void* x, int64_t count) {
  switch (dtype) {
    case DType::bf16:
      return sum_as<bfloat16>(x, count);
    case DType::f16:
      return sum_as<float16>(x, count);
    default:
      return sum_as<float>(x, count);
  }
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run};

}  // namespace pyllm::gradient_norm
