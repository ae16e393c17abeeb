#include "character_class.h"

namespace pyllm::tokenizers {
namespace {

constexpr uint32_t kRuns[] = {
#include "unicode/character_classes.inc"
};

}  // namespace

CharacterTable::CharacterTable() : entries_(kRuns), basic_(0x10000) {
  for (uint32_t code_point = 0; code_point < basic_.size(); ++code_point) {
    basic_[code_point] = static_cast<uint16_t>(class_set(class_of(code_point)));
    if (unstable(code_point)) basic_[code_point] |= kUnstableBasic;
  }
}

const CharacterTable& CharacterTable::instance() {
  static const CharacterTable table;
  return table;
}

}  // namespace pyllm::tokenizers
