#include <vector>

#include "core/parallel.h"
#include "formats/packed_row.h"
#include "ops/quantized_linear/quantized_linear.h"

namespace pyllm::quantized_linear {
namespace {

// f(output, its row's values) for outputs [first, first + count)
template <class F>
void for_each_output(const packed::Weight& weight, int64_t first, int64_t count, const F& f) {
  packed::Row row(*weight.format, weight.layout);
  std::vector<float> values(static_cast<size_t>(weight.layout.inputs));
  for (int64_t output = first; output < first + count; ++output) {
    load_row(weight, output, row);
    row_values(*weight.format, weight.layout, row, values.data());
    f(output, values.data());
  }
}

template <class T>
void forward_as(const Product& p) {
  const packed::Layout& layout = p.weight.layout;
  parallel_for(0, layout.outputs, 16, [&](int64_t begin, int64_t end) {
    for_each_output(p.weight, begin, end - begin, [&](int64_t output, const float* values) {
      for (int64_t row = 0; row < p.rows; ++row) {
        const T* x = static_cast<const T*>(p.left) + row * p.stride;
        double sum = p.bias ? to_double(static_cast<const T*>(p.bias)[output]) : 0.0;
        for (int64_t k = 0; k < layout.inputs; ++k) sum += to_double(x[k]) * values[k];
        static_cast<T*>(p.out)[row * layout.outputs + output] = from_double<T>(sum);
      }
    });
  });
}

template <class T>
void grad_x_as(const Product& p) {
  const packed::Layout& layout = p.weight.layout;
  std::vector<double> sums(static_cast<size_t>(p.rows * layout.inputs));
  for_each_output(p.weight, 0, layout.outputs, [&](int64_t output, const float* values) {
    for (int64_t row = 0; row < p.rows; ++row) {
      const double grad = to_double(static_cast<const T*>(p.left)[row * p.stride + output]);
      double* sum = sums.data() + row * layout.inputs;
      for (int64_t k = 0; k < layout.inputs; ++k) sum[k] += grad * values[k];
    }
  });
  for (size_t i = 0; i < sums.size(); ++i) static_cast<T*>(p.out)[i] = from_double<T>(sums[i]);
}

}  // namespace

const Kernels kernels_scalar = {
    [](const Product* products, int64_t count) {
      for (const Product* p = products; p < products + count; ++p) {
        visit(p->dtype, [&](auto zero) { forward_as<decltype(zero)>(*p); });
      }
    },
    [](const Product* products, int64_t count) {
      for (const Product* p = products; p < products + count; ++p) {
        visit(p->dtype, [&](auto zero) { grad_x_as<decltype(zero)>(*p); });
      }
    },
};

}  // namespace pyllm::quantized_linear
