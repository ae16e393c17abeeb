// Which keys a query may see, as intervals: causal, window, prefix, sink tokens, padding and packing all come
// down to two numbers and a third, so that a tile of scores is full, partial or empty by arithmetic alone.
//
//          keys  0        head          low            high        kv_len
//                +---------+ . . . . . . +--------------+ . . . . . . +
//   a query sees |#########|             |##############|
//
// A boolean or additive mask, where there is one, narrows this further, element by element.
// All is constexpr so that CUDA kernels can call it.
#pragma once

#include <cstdint>

namespace pyllm {

struct IntervalMask {
  bool causal;          // a query sees no key past its own position
  int64_t window;       // and only this many up to it; 0 means no window
  int64_t sink_tokens;  // except that the first keys stay visible
};

// Keys [0, head) and [low, high) are visible; low <= high, and all lie in [0, kv_len].
struct Visible {
  int64_t head, low, high;
};

namespace {

[[maybe_unused]] constexpr int64_t clamp(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

// What the query at key position `position` (may be negative) sees of `kv_len` keys. All three bounds grow
// with the position, so that a range of queries sees at most [0, last.head) and [first.low, last.high).
[[maybe_unused]] constexpr Visible visible_keys(const IntervalMask& mask, int64_t position, int64_t kv_len,
                                                int64_t prefix) {
  const bool causal = mask.causal || mask.window > 0;
  const int64_t high = causal ? clamp(position + 1, 0, kv_len) : kv_len;
  const int64_t low = mask.window > 0 ? clamp(position - mask.window + 1, 0, high) : 0;
  const int64_t sinks = mask.sink_tokens < high ? mask.sink_tokens : high;
  const int64_t head = prefix < kv_len ? prefix : kv_len;
  return {head > sinks ? head : sinks, low, high};
}

// True if one interval alone holds all of [first, last).
[[maybe_unused]] constexpr bool covers(const Visible& v, int64_t first, int64_t last) {
  return last <= v.head || (v.low <= first && last <= v.high);
}

[[maybe_unused]] constexpr bool sees(const Visible& v, int64_t key) {
  return key < v.head || (key >= v.low && key < v.high);
}

// The smallest [first, last) inside [begin, end) that holds all visible keys of it; first == last if none is.
struct KeyRange {
  int64_t first, last;
};
[[maybe_unused]] constexpr KeyRange visible_range(const Visible& v, int64_t begin, int64_t end) {
  const int64_t low = clamp(v.low, begin, end), high = clamp(v.high, begin, end);
  const int64_t head = clamp(v.head, begin, end);
  if (head == begin) return {low, high};
  return {begin, low < high && high > head ? high : head};
}

}  // namespace
}  // namespace pyllm
