#include "core/parallel.h"
#include "ops/linear/linear.h"

namespace pyllm::linear {
namespace {

template <class T>
double element(const Product& p, int64_t row, int64_t column) {
  const T* left = static_cast<const T*>(p.left.data) + row * p.left.stride;
  const T* right = static_cast<const T*>(p.right.data) + column * p.right.stride;
  double sum = 0;
  for (int64_t k = 0; k < p.depth; ++k) {
    sum += to_double(left[k * p.left.stride_k]) * to_double(right[k * p.right.stride_k]);
  }
  return p.bias ? sum + to_double(static_cast<const T*>(p.bias)[column]) : sum;
}

template <class T, class Out>
void product_as(const Product& p) {
  parallel_for(0, p.rows * p.columns, 64, [&](int64_t begin, int64_t end) {
    Out* out = static_cast<Out*>(p.out);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / p.columns, column = i % p.columns;
      out[row * p.out_stride + column] = from_double<Out>(element<T>(p, row, column));
    }
  });
}

}  // namespace

const Kernels kernels_scalar = {
    [](const Product& p) {
      visit(p.dtype, [&](auto zero) {
        using T = decltype(zero);
        p.out_dtype == p.dtype ? product_as<T, T>(p) : product_as<T, float>(p);
      });
    },
};

}  // namespace pyllm::linear
