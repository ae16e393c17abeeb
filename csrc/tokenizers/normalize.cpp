#include "normalize.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "character_class.h"

namespace pyllm::tokenizers {
namespace {

struct Decomposition {
  uint32_t composed, first, second;
  bool composes_again;
};

constexpr Decomposition kDecompositions[] = {
#include "unicode/canonical_decompositions.inc"
};

constexpr uint32_t kCombiningClasses[] = {
#include "unicode/combining_classes.inc"
};

// Hangul syllables follow from arithmetic (Unicode 16.0, section 3.12).
constexpr uint32_t kSyllables = 0xAC00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11A7;
constexpr uint32_t kLeadCount = 19, kVowelCount = 21, kTailCount = 28;
constexpr uint32_t kSyllableCount = kLeadCount * kVowelCount * kTailCount;

struct Character {
  uint32_t code_point;
  uint32_t combining_class;
};

// Primary composites sorted by (first, second).
const std::vector<Decomposition>& composites() {
  static const std::vector<Decomposition> sorted = [] {
    std::vector<Decomposition> rows;
    std::copy_if(std::begin(kDecompositions), std::end(kDecompositions), std::back_inserter(rows),
                 [](const Decomposition& row) { return row.composes_again; });
    std::sort(rows.begin(), rows.end(), [](const Decomposition& a, const Decomposition& b) {
      return std::pair(a.first, a.second) < std::pair(b.first, b.second);
    });
    return rows;
  }();
  return sorted;
}

uint32_t combining_class(uint32_t code_point) {
  const auto* found =
      std::lower_bound(std::begin(kCombiningClasses), std::end(kCombiningClasses), code_point << 8);
  const bool present = found != std::end(kCombiningClasses) && *found >> 8 == code_point;
  return present ? *found & 0xFF : 0;
}

const Decomposition* find_decomposition(uint32_t code_point) {
  const auto* found =
      std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), code_point,
                       [](const Decomposition& row, uint32_t key) { return row.composed < key; });
  return found != std::end(kDecompositions) && found->composed == code_point ? found : nullptr;
}

// Only the first half of a decomposition can be decomposed again, so a loop does: seconds pile up and are
// appended in reverse.
void append_decomposed(std::vector<Character>& out, uint32_t code_point) {
  if (code_point - kSyllables < kSyllableCount) {
    const uint32_t index = code_point - kSyllables;
    out.push_back({kLeads + index / (kVowelCount * kTailCount), 0});
    out.push_back({kVowels + index % (kVowelCount * kTailCount) / kTailCount, 0});
    if (index % kTailCount != 0) out.push_back({kTails + index % kTailCount, 0});
    return;
  }
  std::vector<uint32_t> seconds;
  while (const Decomposition* row = find_decomposition(code_point)) {
    code_point = row->first;
    if (row->second != 0) seconds.push_back(row->second);
  }
  out.push_back({code_point, combining_class(code_point)});
  for (auto second = seconds.rbegin(); second != seconds.rend(); ++second) {
    out.push_back({*second, combining_class(*second)});
  }
}

void order_marks(std::vector<Character>& characters) {
  for (auto first = characters.begin(); first != characters.end();) {
    if (first->combining_class == 0) {
      ++first;
      continue;
    }
    const auto last =
        std::find_if(first, characters.end(), [](Character c) { return c.combining_class == 0; });
    std::stable_sort(first, last,
                     [](Character a, Character b) { return a.combining_class < b.combining_class; });
    first = last;
  }
}

// 0: the two do not compose.
uint32_t compose(uint32_t first, uint32_t second) {
  if (first - kLeads < kLeadCount && second - kVowels < kVowelCount) {
    return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTailCount;
  }
  const bool open_syllable = first - kSyllables < kSyllableCount && (first - kSyllables) % kTailCount == 0;
  if (open_syllable && second - kTails - 1 < kTailCount - 1) return first + (second - kTails);
  const auto& rows = composites();
  const auto found = std::lower_bound(rows.begin(), rows.end(), std::pair(first, second),
                                      [](const Decomposition& row, std::pair<uint32_t, uint32_t> key) {
                                        return std::pair(row.first, row.second) < key;
                                      });
  const bool present = found != rows.end() && found->first == first && found->second == second;
  return present ? found->composed : 0;
}

// Characters compose with the last starter unless one of the same or a higher class stands between.
void compose_in_place(std::vector<Character>& characters) {
  constexpr size_t kNone = SIZE_MAX;
  size_t starter = kNone, kept = 0;
  for (const Character c : characters) {
    const bool adjacent = starter != kNone && starter + 1 == kept;
    const bool blocked = !adjacent && kept > 0 && characters[kept - 1].combining_class >= c.combining_class;
    if (starter != kNone && !blocked) {
      if (const uint32_t composed = compose(characters[starter].code_point, c.code_point)) {
        characters[starter].code_point = composed;
        continue;
      }
    }
    if (c.combining_class == 0) starter = kept;
    characters[kept++] = c;
  }
  characters.resize(kept);
}

}  // namespace

bool may_change_under_nfc(std::string_view text) {
  const CharacterTable& table = CharacterTable::instance();
  for (size_t at = 0; at < text.size();) {
    // Nothing below U+0300 (lead byte 0xCC) changes.
    if (static_cast<unsigned char>(text[at]) < 0xCC) {
      ++at;
      continue;
    }
    const Utf8Character character = decode_utf8(text, at);
    if (table.unstable(character.code_point)) return true;
    at += character.length;
  }
  return false;
}

std::string normalize_nfc(std::string_view text) {
  std::vector<Character> characters;
  characters.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Character character = decode_utf8(text, at);
    append_decomposed(characters, character.code_point);
    at += character.length;
  }
  order_marks(characters);
  compose_in_place(characters);
  std::string normalized;
  normalized.reserve(text.size());
  for (const Character c : characters) append_utf8(normalized, c.code_point);
  return normalized;
}

}  // namespace pyllm::tokenizers
