#include "general_category.h"

#include <iterator>

#include "two_stage_table.h"

namespace pyllm::tokenizers {
namespace {

constexpr uint32_t kRuns[] = {
#include "unicode/general_categories.inc"
};

constexpr std::string_view kNames[] = {
    "Cn", "Cc", "Cf", "Co", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No",
    "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp",
};
constexpr uint8_t kCategoryMask = 31, kHan = 32;

const TwoStageTable& table() {
  static const TwoStageTable entries(kRuns);
  return entries;
}

}  // namespace

Category category_of(uint32_t code_point) {
  return static_cast<Category>(table()[code_point] & kCategoryMask);
}

bool is_han(uint32_t code_point) { return (table()[code_point] & kHan) != 0; }

uint32_t category_set(std::string_view name) {
  uint32_t set = 0;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == name || (name.size() == 1 && kNames[i][0] == name[0])) set |= uint32_t{1} << i;
  }
  return set;
}

}  // namespace pyllm::tokenizers
