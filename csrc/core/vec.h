// One vector of floats at the width of the level being compiled: what portable.cpp kernels are written in.
//
// Arithmetic uses the compilers' vector operators (+ - * /); this file adds what they lack: fused
// multiply-add, loads and stores that convert 16-bit formats, partial loads for tails, and sums in one fixed
// order.
#pragma once

#include "core/dtype.h"

#if defined(__AVX512F__)
#include "core/vec_avx512.h"
#elif defined(__AVX2__)
#include "core/vec_avx2.h"
#elif defined(__aarch64__)
#include "core/vec_neon.h"
#else
#error "portable kernels need AVX2, AVX-512 or NEON; the scalar level uses reference.cpp"
#endif

namespace pyllm {
namespace {

[[maybe_unused]] inline Vec zero() { return set1(0.0f); }

// dst[i] = float(src[i])
template <class T>
[[maybe_unused]] inline void to_float(const T* src, float* dst, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(dst + i, load(src + i));
  if (i < count) store_partial(dst + i, load_partial(src + i, count - i), count - i);
}

// dst[i] = T(src[i]), rounded to nearest even
template <class T>
[[maybe_unused]] inline void from_float(const float* src, T* dst, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(dst + i, load(src + i));
  if (i < count) store_partial(dst + i, load_partial(src + i, count - i), count - i);
}

// f(load, store, offset) over [0, count): full vectors, then one partial vector. Tail lanes read as zero.
template <class F>
[[maybe_unused]] inline void for_each_vec(int64_t count, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) f(i, int64_t{kLanes});
  if (i < count) f(i, count - i);
}

// Loads `lanes` elements: the full vector, or a zero-filled part.
template <class T>
[[maybe_unused]] inline Vec load_lanes(const T* src, int64_t lanes) {
  return lanes == kLanes ? load(src) : load_partial(src, lanes);
}

template <class T>
[[maybe_unused]] inline void store_lanes(T* dst, Vec v, int64_t lanes) {
  if (lanes == kLanes) {
    store(dst, v);
  } else {
    store_partial(dst, v, lanes);
  }
}

}  // namespace
}  // namespace pyllm
