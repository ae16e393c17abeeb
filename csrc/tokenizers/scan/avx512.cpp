#include <immintrin.h>

#include <cstring>

#include "byte_masks.h"
#include "scan.h"

namespace pyllm::tokenizers {
namespace {

ByteMasks classify(const char* at) {
  const __m512i bytes = _mm512_loadu_si512(at);
  const auto equal = [&](char c) { return _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(c)); };
  const auto range = [&](char first, char count) {
    return _mm512_cmplt_epu8_mask(_mm512_sub_epi8(bytes, _mm512_set1_epi8(first)), _mm512_set1_epi8(count));
  };
  const uint64_t newline = equal('\n') | equal('\r');
  return {range('A', 26),
          range('a', 26),
          range('0', 10),
          equal(' '),
          range('\t', 5) & ~newline,
          newline,
          equal('/'),
          equal('\''),
          _mm512_movepi8_mask(bytes)};
}

}  // namespace
}  // namespace pyllm::tokenizers

#include "windows.h"

namespace pyllm::tokenizers {

extern const GrammarScans kScansAvx512;
const GrammarScans kScansAvx512 = kScans;

}  // namespace pyllm::tokenizers
