#include "text_properties.h"

#include <algorithm>
#include <iterator>

#include "character_class.h"

namespace pyllm::tokenizers {
namespace {

constexpr uint32_t kRuns[] = {
#include "unicode/text_properties.inc"
};

struct LowerCase {
  uint32_t code_point, lower;
};

constexpr LowerCase kLowerCases[] = {
#include "unicode/lower_cases.inc"
};

struct CodePointRange {
  uint32_t first, last;
};

// The two starts 0x2B820 -> 0x2B920 differ from Unicode's blocks in tokenizers.
constexpr CodePointRange kChinese[] = {
    {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},   {0x20000, 0x2A6DF},
    {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0x2F800, 0x2FA1F},
};

}  // namespace

bool has_property(uint32_t code_point, TextProperty property) {
  static const TwoStageTable table(kRuns);
  return (table[code_point] & static_cast<uint8_t>(property)) != 0;
}

bool is_whitespace(uint32_t code_point) {
  return (class_set(CharacterTable::instance().class_of(code_point)) & kSpaces) != 0;
}

bool is_bert_chinese(uint32_t code_point) {
  return std::any_of(std::begin(kChinese), std::end(kChinese), [=](const CodePointRange& range) {
    return range.first <= code_point && code_point <= range.last;
  });
}

uint32_t lower_case(uint32_t code_point) {
  if (code_point < 0x80) return code_point >= 'A' && code_point <= 'Z' ? code_point + 32 : code_point;
  const auto* found =
      std::lower_bound(std::begin(kLowerCases), std::end(kLowerCases), code_point,
                       [](const LowerCase& row, uint32_t key) { return row.code_point < key; });
  const bool present = found != std::end(kLowerCases) && found->code_point == code_point;
  return present ? found->lower : code_point;
}

}  // namespace pyllm::tokenizers
