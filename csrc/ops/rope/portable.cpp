// One pass: a row of x is read once and written once; the angles of a token are shared by its heads and stay
// in the caches. Products are rounded before they are added, as PyTorch's own a * cos - b * sin does.
#include "core/levels.h"
#include "core/parallel.h"
#include "core/vec.h"
#include "ops/rope/rope.h"

namespace pyllm::rope {
namespace {

template <class T>
void rotate_halves(const T* x, const float* cos, const float* sin, bool inverse, int64_t pairs, T* out) {
  const Vec sign = set1(inverse ? -1.0f : 1.0f);
  for_each_vec(pairs, [&](int64_t i, int64_t lanes) {
    const Vec a = load_lanes(x + i, lanes), b = load_lanes(x + pairs + i, lanes);
    const Vec c = load_lanes(cos + i, lanes), s = sign * load_lanes(sin + i, lanes);
    store_lanes(out + i, a * c - b * s, lanes);
    store_lanes(out + pairs + i, b * c + a * s, lanes);
  });
}

// Through floats on the stack: neighbours trade places more cheaply in memory than across vectors of every
// width.
template <class T>
void rotate_neighbours(const T* x, const float* cos, const float* sin, bool inverse, int64_t pairs, T* out) {
  constexpr int64_t kPairs = 64;
  float in[2 * kPairs], rotated[2 * kPairs];
  const float sign = inverse ? -1.0f : 1.0f;
  for (int64_t first = 0; first < pairs; first += kPairs) {
    const int64_t count = pairs - first < kPairs ? pairs - first : kPairs;
    to_float(x + 2 * first, in, 2 * count);
    for (int64_t i = 0; i < count; ++i) {
      const float a = in[2 * i], b = in[2 * i + 1], c = cos[first + i], s = sign * sin[first + i];
      rotated[2 * i] = a * c - b * s;
      rotated[2 * i + 1] = b * c + a * s;
    }
    from_float(rotated, out + 2 * first, 2 * count);
  }
}

template <class T>
void rotate_as(const Rotation& r) {
  const int64_t grain = 1 + 16384 / (r.head_dim + 1);
  parallel_for(0, r.batch * r.heads * r.length, grain, [&](int64_t begin, int64_t end) {
    for_each_row(r, begin, end, [&](int64_t row, int64_t offset, int64_t position) {
      const T* x = static_cast<const T*>(r.x) + offset;
      T* out = static_cast<T*>(r.out) + row * r.head_dim;
      const float* cos = static_cast<const float*>(r.cos) + position * r.pairs;
      const float* sin = static_cast<const float*>(r.sin) + position * r.pairs;
      if (r.interleaved) {
        rotate_neighbours(x, cos, sin, r.inverse, r.pairs, out);
      } else {
        rotate_halves(x, cos, sin, r.inverse, r.pairs, out);
      }
      for (int64_t i = 2 * r.pairs; i < r.head_dim; ++i) out[i] = x[i];
    });
  });
}

void run_rotate(const Rotation& r) {
  if (r.dtype == DType::f32) rotate_as<float>(r);
  if (r.dtype == DType::bf16) rotate_as<bfloat16>(r);
  if (r.dtype == DType::f16) rotate_as<float16>(r);
}

}  // namespace

extern const Kernels PYLLM_LEVEL_TABLE(kernels);
const Kernels PYLLM_LEVEL_TABLE(kernels) = {run_rotate};

}  // namespace pyllm::rope
