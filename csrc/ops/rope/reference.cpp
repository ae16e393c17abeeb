#include "ops/rope/rope.h"

namespace pyllm::rope {
namespace {

template <class T>
void rotate_as(const Rotation& r) {
  using Table = Accumulator<T>;
  const int64_t rows = r.batch * r.heads * r.length;
  for_each_row(r, 0, rows, [&](int64_t row, int64_t offset, int64_t position) {
    const T* x = static_cast<const T*>(r.x) + offset;
    T* out = static_cast<T*>(r.out) + row * r.head_dim;
    const Table* cos = static_cast<const Table*>(r.cos) + position * r.pairs;
    const Table* sin = static_cast<const Table*>(r.sin) + position * r.pairs;
    for (int64_t i = 0; i < r.pairs; ++i) {
      const int64_t first = r.interleaved ? 2 * i : i, second = r.interleaved ? 2 * i + 1 : i + r.pairs;
      const double a = to_double(x[first]), b = to_double(x[second]);
      const double c = cos[i], s = r.inverse ? -sin[i] : sin[i];
      out[first] = from_double<T>(a * c - b * s);
      out[second] = from_double<T>(b * c + a * s);
    }
    for (int64_t i = 2 * r.pairs; i < r.head_dim; ++i) out[i] = x[i];
  });
}

}  // namespace

const Kernels kernels_scalar = {
    [](const Rotation& r) { visit(r.dtype, [&](auto zero) { rotate_as<decltype(zero)>(r); }); },
};

}  // namespace pyllm::rope
