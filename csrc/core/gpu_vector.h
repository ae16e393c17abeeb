// Global memory in vectors of 16 bytes, the widest access a thread has, and the elements as floats.
#pragma once

#include "core/gpu.h"
#include "core/gpu_ptx.h"

namespace pyllm::gpu {

// Elements in 16 bytes.
template <class T>
constexpr int kVector = 16 / sizeof(T);

// kWidth elements as they lie in memory.
template <class T, int kWidth>
struct Vector {
  alignas(kWidth * sizeof(T)) T element[kWidth];
};

// Through uint4, because only a load of a built-in vector type is one instruction.
template <class T, int kWidth>
GPU_FN Vector<T, kWidth> load(const T* from) {
  Vector<T, kWidth> v;
  if constexpr (kWidth == 1) {
    v.element[0] = *from;
  } else {
    static_assert(kWidth == kVector<T>);
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    memcpy(&v, &bits, sizeof v);
  }
  return v;
}

template <class T, int kWidth>
GPU_FN void store(T* to, const Vector<T, kWidth>& v) {
  if constexpr (kWidth == 1) {
    *to = v.element[0];
  } else {
    uint4 bits;
    memcpy(&bits, &v, sizeof bits);
    *reinterpret_cast<uint4*>(to) = bits;
  }
}

template <class T, int kWidth>
GPU_FN void to_floats(const Vector<T, kWidth>& v, float (&x)[kWidth]) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) x[i] = to_float(v.element[i]);
}

template <class T, int kWidth>
GPU_FN Vector<T, kWidth> from_floats(const float (&x)[kWidth]) {
  Vector<T, kWidth> v;
  if constexpr (sizeof(T) == 2 && kWidth > 1) {
#pragma unroll
    for (int i = 0; i < kWidth; i += 2) {
      const uint32_t pair = pack<T>(x[i], x[i + 1]);
      memcpy(&v.element[i], &pair, sizeof pair);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) v.element[i] = from_float<T>(x[i]);
  }
  return v;
}

// kWidth floats beside a vector of as many elements of any type: in loads of 16 bytes.
template <int kWidth>
GPU_FN void load_floats(const float* from, float (&x)[kWidth]) {
  constexpr int kStep = kWidth == 1 ? 1 : 4;
#pragma unroll
  for (int n = 0; n < kWidth; n += kStep) {
    const Vector<float, kStep> v = load<float, kStep>(from + n);
#pragma unroll
    for (int i = 0; i < kStep; ++i) x[n + i] = v.element[i];
  }
}

template <int kWidth>
GPU_FN void store_floats(float* to, const float (&x)[kWidth]) {
  constexpr int kStep = kWidth == 1 ? 1 : 4;
#pragma unroll
  for (int n = 0; n < kWidth; n += kStep) {
    Vector<float, kStep> v;
#pragma unroll
    for (int i = 0; i < kStep; ++i) v.element[i] = x[n + i];
    store(to + n, v);
  }
}

// True if `data` and rows at `stride` elements can be read in vectors. Null can.
template <class T>
bool aligned(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % kVector<T> == 0;
}

}  // namespace pyllm::gpu
