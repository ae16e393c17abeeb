// Three paths, one arithmetic (core/chains.h):
//
//   many rows                                      many_rows.h
//   few rows, right contiguous along k (decoding)  few_rows.h
//   one row, right contiguous along the columns    one_row.h
#include "ops/linear/few_rows.h"
#include "ops/linear/many_rows.h"
#include "ops/linear/one_row.h"

namespace pyllm::linear {
namespace {

template <class T>
void product_as(const Product& p) {
  const Chains chains = chains_of(p.depth);
  if (p.rows <= kFewRows && p.right.stride_k == 1 && chains.stride > 1) {
    product_few_rows<T>(p, chains);
  } else if (p.rows == 1 && p.right.stride == 1) {
    product_one_row<T>(p, chains);
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

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_product};

}  // namespace pyllm::linear
