// Three paths, one arithmetic (core/chains.h):
//
//   many rows                                      many_rows.h
//   few rows, right contiguous along k (decoding)  few_rows.h
//   few rows, right contiguous along the columns   stream_rows.h
//
// A right operand that is contiguous along the columns only (grad x, grad weight) takes runs of neighbouring
// k's as chains: its rows are then added up in registers as they lie.
#include "ops/linear/few_rows.h"
#include "ops/linear/many_rows.h"
#include "ops/linear/stream_rows.h"

namespace pyllm::linear {
namespace {

Chains chains_for(const Operand& right, int64_t depth) {
  return chains_of(depth, right.stride != 1 || right.stride_k == 1);
}

template <class T>
void product_as(const Product& p) {
  const Chains chains = chains_for(p.right, p.depth);
  if (p.rows <= kFewRows && p.right.stride_k == 1 && chains.stride > 1) {
    product_few_rows<T>(p, chains);
  } else if (p.rows <= kStreamRows && p.right.stride == 1 && chains.stride == 1 && p.depth > 0) {
    product_stream_rows<T>(p, chains);
  } else {
    product_many_rows<T>(p, chains);
  }
}

void run_product(const Product& p) {
  if (p.rows == 0 || p.columns == 0) return;
  if (p.dtype == DType::f32) product_as<float>(p);
  if (p.dtype == DType::bf16) product_as<bfloat16>(p);
  if (p.dtype == DType::f16) product_as<float16>(p);
}

int64_t packed_right_floats(const Operand& right, int64_t columns, int64_t depth) {
  return packed_floats<kWidePanel>(chains_for(right, depth), columns);
}

void pack_right(const Operand& right, int64_t columns, int64_t depth, float* to) {
  pack_rows<kWidePanel, float>(right, 0, columns, depth, chains_for(right, depth), to);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_product, packed_right_floats, pack_right};

}  // namespace pyllm::linear
