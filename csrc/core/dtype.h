// Element types of tensors, and the two 16-bit formats as plain storage with exact conversions.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace pyllm {

enum class DType { f64, f32, bf16, f16 };

constexpr int64_t size_of(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2; }

struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

// Sums are kept in double for double inputs and in float for all others.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline double to_accumulator(double x) { return x; }
inline float to_accumulator(float x) { return x; }
inline float to_accumulator(bfloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

inline float to_accumulator(float16 x) {
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude >= 0x0400u) return std::bit_cast<float>(sign | ((magnitude + 0x1c000u) << 13));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

// Round to nearest, ties to even.
template <class T>
T from_accumulator(Accumulator<T> x);

template <>
inline double from_accumulator<double>(double x) {
  return x;
}

template <>
inline float from_accumulator<float>(float x) {
  return x;
}

template <>
inline bfloat16 from_accumulator<bfloat16>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
inline float16 from_accumulator<float16>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu))};
  if (magnitude >= 0x477ff000u)
    return {static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and up round to infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the subnormal's bits in the low mantissa
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

// Reference kernels compute in double, whatever the tensors hold.
template <class T>
double to_double(T x) {
  return static_cast<double>(to_accumulator(x));
}

template <class T>
T from_double(double x) {
  return from_accumulator<T>(static_cast<Accumulator<T>>(x));
}

// Calls f with a value of the C++ type of `dtype`: visit(dtype, [&](auto zero) { using T = decltype(zero);
// ... }).
template <class F>
void visit(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f(double{});
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(bfloat16{});
    case DType::f16:
      return f(float16{});
  }
}

}  // namespace pyllm
