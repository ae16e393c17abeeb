// Pages of a quantized KV cache, in bytes. A token's key and value are quantized when they are written, each
// by itself, so that what a token stores depends on no other:
//
//   int8   code * scale             a key has one scale, a value has one          scale: float32
//   int4   code * step + smallest   each run of 32 elements has its own pair      pair: two bfloat16
//
//   int8   keys    per 16 keys: [head_dim][16 keys]           a byte a code
//          values  [keys][value_dim]
//   int4   keys    per 16 keys: [head_dim / 2][16 keys]       d even in the low half of a byte, the next in
//   the high
//          values  [keys][value_dim / 2]                      per 32 columns: the first 16 low, the last 16
//          high
//   then   the keys' scales, per 16 keys: [runs][16 keys]; the values': [keys][runs]
//
// Padding: value_dim to 16, in int4 to 32, and head_dim of int4 to 2. A step is rounded up and the smallest
// down, so that codes 0 to 15 cover the run. A run with a number that is not finite becomes NaN as a whole.
#pragma once

#include <bit>
#include <cstdint>

#include "core/dtype.h"
#include "ops/attention/packed_kv.h"

namespace pyllm::attention {

constexpr int64_t kRun = 32;  // elements of a key or value that share an int4 scale

struct QuantizedLayout {
  KvCode code;
  int64_t page_size, head_dim, value_dim;
  int64_t key_depth, value_width;  // with their padding

  constexpr int64_t bytes_of(int64_t codes) const { return code == KvCode::int4 ? codes / 2 : codes; }
  constexpr int64_t runs(int64_t dim) const { return code == KvCode::int4 ? (dim + kRun - 1) / kRun : 1; }
  constexpr int64_t key_runs() const { return runs(head_dim); }
  constexpr int64_t value_runs() const { return runs(value_dim); }

  // First byte of the codes of the group of 16 keys that begins at token `key`, and of a token's values.
  constexpr int64_t key_group(int64_t key) const { return bytes_of(key * key_depth); }
  constexpr int64_t value_row(int64_t key) const {
    return bytes_of(page_size * key_depth) + bytes_of(key * value_width);
  }
  // First byte of the scales of that group, and of a token's values; four bytes a scale.
  constexpr int64_t key_scales(int64_t key) const { return value_row(page_size) + 4 * key * key_runs(); }
  constexpr int64_t value_scales(int64_t key) const { return key_scales(page_size) + 4 * key * value_runs(); }
  constexpr int64_t bytes() const { return value_scales(page_size); }
};

constexpr QuantizedLayout quantized_layout(KvCode code, int64_t page_size, int64_t head_dim,
                                           int64_t value_dim) {
  const bool halves = code == KvCode::int4;
  return {code,
          page_size,
          head_dim,
          value_dim,
          halves ? (head_dim + 1) / 2 * 2 : head_dim,
          halves ? (value_dim + kRun - 1) / kRun * kRun : (value_dim + 15) / 16 * 16};
}

namespace {

// int8's scale, or int4's step and smallest value.
struct Scale {
  float step, smallest;
};

[[maybe_unused]] inline float load_float(const uint8_t* p) {
  float x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}

// A pair is one word: the step in its high half.
[[maybe_unused]] inline Scale load_scale(KvCode code, const uint8_t* p) {
  if (code == KvCode::int8) return {load_float(p), 0};
  uint32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return {std::bit_cast<float>(word & 0xffff0000u), std::bit_cast<float>(word << 16)};
}

[[maybe_unused]] inline void store_scale(KvCode code, Scale s, uint8_t* p) {
  const uint32_t step = std::bit_cast<uint32_t>(s.step), smallest = std::bit_cast<uint32_t>(s.smallest);
  const uint32_t word = code == KvCode::int8 ? step : (step & 0xffff0000u) | smallest >> 16;
  __builtin_memcpy(p, &word, sizeof word);
}

// The nearest bfloat16 that is not above (below) x.
[[maybe_unused]] inline float bfloat16_below(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), kept = bits & 0xffff0000u;
  return std::bit_cast<float>(x < 0 && kept != bits ? kept + 0x10000u : kept);
}
[[maybe_unused]] inline float bfloat16_above(float x) { return -bfloat16_below(-x); }

[[maybe_unused]] inline Scale fit_scale(KvCode code, const float* x, int64_t count) {
  float smallest = x[0], largest = x[0], not_finite = 0;
  for (int64_t i = 0; i < count; ++i) {
    smallest = x[i] < smallest ? x[i] : smallest;
    largest = x[i] > largest ? x[i] : largest;
    not_finite += x[i] - x[i];
  }
  if (not_finite != 0) return {not_finite, 0};
  if (code == KvCode::int8) return {(-smallest > largest ? -smallest : largest) / 127, 0};
  smallest = bfloat16_below(smallest);
  return {bfloat16_above((largest - smallest) / 15), smallest};
}

// Ties to even, for numbers below 2^22; std::nearbyint is a call where there is no SSE4.1.
[[maybe_unused]] inline float nearest(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

[[maybe_unused]] inline uint8_t code_of(KvCode code, Scale s, float x) {
  if (!(s.step > 0)) return 0;
  if (code == KvCode::int8) return static_cast<uint8_t>(static_cast<int8_t>(nearest(x / s.step)));
  const float n = nearest((x - s.smallest) / s.step);
  return static_cast<uint8_t>(n < 15 ? n : 15);
}

[[maybe_unused]] inline float value_of(KvCode code, Scale s, uint8_t c) {
  if (code == KvCode::int8) return static_cast<float>(static_cast<int8_t>(c)) * s.step;
  return static_cast<float>(c) * s.step + s.smallest;  // the product is exact: 4 bits by 8
}

// Where the code of element d of a token's key or value lies.
struct Place {
  int64_t byte;
  int shift;
};
[[maybe_unused]] inline Place key_place(const QuantizedLayout& at, int64_t token, int64_t d) {
  const int64_t group = at.key_group(token / kKeyGroup * kKeyGroup), column = token % kKeyGroup;
  if (at.code == KvCode::int8) return {group + d * kKeyGroup + column, 0};
  return {group + d / 2 * kKeyGroup + column, static_cast<int>(d % 2 * 4)};
}
[[maybe_unused]] inline Place value_place(const QuantizedLayout& at, int64_t token, int64_t d) {
  if (at.code == KvCode::int8) return {at.value_row(token) + d, 0};
  return {at.value_row(token) + d / kRun * 16 + d % 16, static_cast<int>(d % kRun / 16 * 4)};
}
[[maybe_unused]] inline int64_t key_scale_place(const QuantizedLayout& at, int64_t token, int64_t run) {
  return at.key_scales(token / kKeyGroup * kKeyGroup) + 4 * (run * kKeyGroup + token % kKeyGroup);
}
[[maybe_unused]] inline int64_t value_scale_place(const QuantizedLayout& at, int64_t token, int64_t run) {
  return at.value_scales(token) + 4 * run;
}

[[maybe_unused]] inline void put_code(const QuantizedLayout& at, Place place, uint8_t code, uint8_t* page) {
  uint8_t& byte = page[place.byte];
  byte = at.code == KvCode::int8 ? code
                                 : static_cast<uint8_t>((byte & (0xf0 >> place.shift)) | code << place.shift);
}
[[maybe_unused]] inline uint8_t code_at(const QuantizedLayout& at, Place place, const uint8_t* page) {
  const int byte = page[place.byte];
  return static_cast<uint8_t>(at.code == KvCode::int8 ? byte : byte >> place.shift & 15);
}

// Quantizes x, a token's key or value, into a page; padding gets code 0.
template <class PlaceOf, class ScalePlaceOf>
void quantize_row(const QuantizedLayout& at, const float* x, int64_t dim, int64_t padded,
                  const PlaceOf& place_of, const ScalePlaceOf& scale_place_of, uint8_t* page) {
  const int64_t run_length = at.code == KvCode::int4 ? kRun : dim;
  for (int64_t first = 0; first < dim; first += run_length) {
    const int64_t count = run_length < dim - first ? run_length : dim - first;
    const Scale scale = fit_scale(at.code, x + first, count);
    store_scale(at.code, scale, page + scale_place_of(first / run_length));
    for (int64_t d = first; d < first + count; ++d) {
      put_code(at, place_of(d), code_of(at.code, scale, x[d]), page);
    }
  }
  for (int64_t d = dim; d < padded; ++d) put_code(at, place_of(d), 0, page);
}

[[maybe_unused]] inline void quantize_token(const QuantizedLayout& at, int64_t token, const float* key,
                                            const float* value, uint8_t* page) {
  quantize_row(
      at, key, at.head_dim, at.key_depth, [&](int64_t d) { return key_place(at, token, d); },
      [&](int64_t run) { return key_scale_place(at, token, run); }, page);
  quantize_row(
      at, value, at.value_dim, at.value_width, [&](int64_t d) { return value_place(at, token, d); },
      [&](int64_t run) { return value_scale_place(at, token, run); }, page);
}

template <class T>
[[maybe_unused]] void dequantize_token(const QuantizedLayout& at, int64_t token, const uint8_t* page, T* key,
                                       T* value) {
  const int64_t run_length = at.code == KvCode::int4 ? kRun : INT64_MAX;
  for (int64_t d = 0; d < at.head_dim; ++d) {
    const Scale scale = load_scale(at.code, page + key_scale_place(at, token, d / run_length));
    key[d] = from_double<T>(value_of(at.code, scale, code_at(at, key_place(at, token, d), page)));
  }
  for (int64_t d = 0; d < at.value_dim; ++d) {
    const Scale scale = load_scale(at.code, page + value_scale_place(at, token, d / run_length));
    value[d] = from_double<T>(value_of(at.code, scale, code_at(at, value_place(at, token, d), page)));
  }
}

}  // namespace
}  // namespace pyllm::attention
