#include "character_class.h"

namespace pyllm::tokenizers {
namespace {

constexpr uint32_t kRuns[] = {
#include "unicode/character_classes.inc"
};

}  // namespace

CharacterTable::CharacterTable() : entries_(kRuns) {}

const CharacterTable& CharacterTable::instance() {
  static const CharacterTable table;
  return table;
}

}  // namespace pyllm::tokenizers
