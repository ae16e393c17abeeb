#include "graphemes.h"

#include "two_stage_table.h"

namespace pyllm::tokenizers {
namespace {

constexpr uint32_t kRuns[] = {
#include "unicode/grapheme_breaks.inc"
};

// The order is that of GRAPHEME_BREAKS in unicode/generate_tables.py; the next bits stand beside it.
enum GraphemeBreak : uint8_t {
  kOther,
  kCr,
  kLf,
  kControl,
  kExtend,
  kJoiner,
  kRegional,
  kPrepend,
  kSpacing,
  kL,
  kV,
  kT,
  kLV,
  kLVT,  // clang-format off
};  // clang-format on
constexpr uint8_t kBreakMask = 15, kPictograph = 16, kLinker = 32, kConsonant = 64, kConjunctExtend = 128;

// What the rules need to know of the characters before a border.
struct Context {
  GraphemeBreak last;
  size_t regionals;        // indicators in a row
  bool pictograph;         // pictograph, extends: GB11 waits for a joiner
  bool pictograph_joined;  // and got it
  bool consonant, linked;  // GB9c: a consonant, and a linker since

  void take(uint8_t properties) {
    last = static_cast<GraphemeBreak>(properties & kBreakMask);
    regionals = last == kRegional ? regionals + 1 : 0;
    pictograph_joined = pictograph && last == kJoiner;
    pictograph = (properties & kPictograph) != 0 || (pictograph && last == kExtend);
    if ((properties & kConsonant) != 0) {
      consonant = true;
      linked = false;
    } else {
      const bool stays = (properties & (kLinker | kConjunctExtend)) != 0;
      linked = consonant && stays && (linked || (properties & kLinker) != 0);
      consonant = consonant && stays;
    }
  }
};

// Rules GB3 to GB999.
bool joins(const Context& context, uint8_t properties) {
  const auto next = static_cast<GraphemeBreak>(properties & kBreakMask);
  const GraphemeBreak last = context.last;
  if (last == kCr && next == kLf) return true;
  if (last == kCr || last == kLf || last == kControl) return false;
  if (next == kCr || next == kLf || next == kControl) return false;
  if (last == kL && (next == kL || next == kV || next == kLV || next == kLVT)) return true;
  if ((last == kLV || last == kV) && (next == kV || next == kT)) return true;
  if ((last == kLVT || last == kT) && next == kT) return true;
  if (next == kExtend || next == kJoiner || next == kSpacing || last == kPrepend) return true;
  if (context.consonant && context.linked && (properties & kConsonant) != 0) return true;
  if (context.pictograph_joined && (properties & kPictograph) != 0) return true;
  return last == kRegional && next == kRegional && context.regionals % 2 == 1;
}

}  // namespace

size_t next_grapheme(std::string_view text, size_t begin) {
  static const TwoStageTable table(kRuns);
  Context context{};
  Utf8Character character = decode_utf8(text, begin);
  context.take(table[character.code_point]);
  size_t at = begin + character.length;
  while (at < text.size()) {
    character = decode_utf8(text, at);
    const uint8_t properties = table[character.code_point];
    if (!joins(context, properties)) break;
    context.take(properties);
    at += character.length;
  }
  return at;
}

}  // namespace pyllm::tokenizers
