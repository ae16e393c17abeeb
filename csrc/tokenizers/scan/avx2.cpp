#include <immintrin.h>

#include <cstring>

#include "byte_masks.h"
#include "scan.h"

namespace pyllm::tokenizers {
namespace {

struct Halves {
  __m256i low, high;
};

uint64_t mask_of(__m256i low, __m256i high) {
  return static_cast<uint32_t>(_mm256_movemask_epi8(low)) |
         uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(high))} << 32;
}

uint64_t equal(Halves x, char c) {
  const __m256i all = _mm256_set1_epi8(c);
  return mask_of(_mm256_cmpeq_epi8(x.low, all), _mm256_cmpeq_epi8(x.high, all));
}

// first <= byte < first + count
uint64_t range(Halves x, char first, char count) {
  const __m256i start = _mm256_set1_epi8(first), last = _mm256_set1_epi8(static_cast<char>(count - 1));
  const auto inside = [&](__m256i bytes) {
    const __m256i from_start = _mm256_sub_epi8(bytes, start);
    return _mm256_cmpeq_epi8(_mm256_min_epu8(from_start, last), from_start);
  };
  return mask_of(inside(x.low), inside(x.high));
}

ByteMasks classify(const char* at) {
  const auto* words = reinterpret_cast<const __m256i*>(at);
  const Halves x{_mm256_loadu_si256(words), _mm256_loadu_si256(words + 1)};
  const uint64_t newline = equal(x, '\n') | equal(x, '\r');
  return {range(x, 'A', 26),
          range(x, 'a', 26),
          range(x, '0', 10),
          equal(x, ' '),
          range(x, '\t', 5) & ~newline,
          newline,
          equal(x, '/'),
          equal(x, '\''),
          mask_of(x.low, x.high)};
}

}  // namespace
}  // namespace pyllm::tokenizers

#include "windows.h"

namespace pyllm::tokenizers {

extern const GrammarScans kScansAvx2;
const GrammarScans kScansAvx2 = kScans;

}  // namespace pyllm::tokenizers
