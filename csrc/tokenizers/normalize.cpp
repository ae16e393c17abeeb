#include "normalize.h"

#include <algorithm>
#include <cstring>
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

// Code point, number of characters, characters.
constexpr uint32_t kCompatibility[] = {
#include "unicode/compatibility_decompositions.inc"
};

struct Character {
  uint32_t code_point;
  uint32_t combining_class;
  Span part;  // of the source
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

// The rows of kCompatibility by code point.
const std::vector<const uint32_t*>& compatibility_rows() {
  static const std::vector<const uint32_t*> rows = [] {
    std::vector<const uint32_t*> starts;
    for (const uint32_t* row = std::begin(kCompatibility); row < std::end(kCompatibility);
         row += row[1] + 2) {
      starts.push_back(row);
    }
    return starts;
  }();
  return rows;
}

// nullptr: the compatibility decomposition is the canonical one.
const uint32_t* find_compatibility(uint32_t code_point) {
  const auto& rows = compatibility_rows();
  const auto found = std::lower_bound(rows.begin(), rows.end(), code_point,
                                      [](const uint32_t* row, uint32_t key) { return *row < key; });
  return found != rows.end() && **found == code_point ? *found : nullptr;
}

// Takes characters apart; only the first half of a canonical decomposition can be decomposed again, so a loop
// does: seconds pile up and are appended in reverse.
class Decomposer {
 public:
  explicit Decomposer(NormalizationForm form) : form_(form) {}

  void append(uint32_t code_point, Span part) {
    const uint32_t* row = form_.compatibility ? find_compatibility(code_point) : nullptr;
    if (row == nullptr) {
      append_canonical(code_point, part);
      return;
    }
    for (uint32_t i = 0; i < row[1]; ++i) put(row[2 + i], part);
  }

  std::vector<Character> characters;

 private:
  void put(uint32_t code_point, Span part) {
    characters.push_back({code_point, combining_class(code_point), part});
  }

  void append_canonical(uint32_t code_point, Span part) {
    if (code_point - kSyllables < kSyllableCount) {
      const uint32_t index = code_point - kSyllables;
      put(kLeads + index / (kVowelCount * kTailCount), part);
      put(kVowels + index % (kVowelCount * kTailCount) / kTailCount, part);
      if (index % kTailCount != 0) put(kTails + index % kTailCount, part);
      return;
    }
    seconds_.clear();
    while (const Decomposition* row = find_decomposition(code_point)) {
      code_point = row->first;
      if (row->second != 0) seconds_.push_back(row->second);
    }
    put(code_point, part);
    for (auto second = seconds_.rbegin(); second != seconds_.rend(); ++second) put(*second, part);
  }

  NormalizationForm form_;
  std::vector<uint32_t> seconds_;
};

void order_marks(std::vector<Character>& characters) {
  for (auto first = characters.begin(); first != characters.end();) {
    if (first->combining_class == 0) {
      ++first;
      continue;
    }
    const auto last =
        std::find_if(first, characters.end(), [](const Character& c) { return c.combining_class == 0; });
    std::stable_sort(first, last, [](const Character& a, const Character& b) {
      return a.combining_class < b.combining_class;
    });
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
  for (const Character& c : characters) {
    const bool adjacent = starter != kNone && starter + 1 == kept;
    const bool blocked = !adjacent && kept > 0 && characters[kept - 1].combining_class >= c.combining_class;
    if (starter != kNone && !blocked) {
      if (const uint32_t composed = compose(characters[starter].code_point, c.code_point)) {
        characters[starter].code_point = composed;
        Span& part = characters[starter].part;
        part = {std::min(part.begin, c.part.begin), std::max(part.end, c.part.end)};
        continue;
      }
    }
    if (c.combining_class == 0) starter = kept;
    characters[kept++] = c;
  }
  characters.resize(kept);
}

// Precomposed characters, compatibility characters and marks out of order.
bool changes_decomposed(uint32_t code_point, bool compatibility) {
  if (code_point < 0xA0) return false;
  return combining_class(code_point) != 0 || code_point - kSyllables < kSyllableCount ||
         find_decomposition(code_point) != nullptr ||
         (compatibility && find_compatibility(code_point) != nullptr);
}

bool is_nfc(NormalizationForm form) { return form.composed && !form.compatibility; }

// From `at`, over whole words of ASCII, then single bytes.
size_t skip_ascii(std::string_view text, size_t at) {
  constexpr uint64_t kHighBits = 0x8080808080808080u;
  uint64_t word;
  for (; at + sizeof(word) <= text.size(); at += sizeof(word)) {
    std::memcpy(&word, text.data() + at, sizeof(word));
    if ((word & kHighBits) != 0) break;
  }
  while (at < text.size() && static_cast<signed char>(text[at]) >= 0) ++at;
  return at;
}

// The next characters that NFC may change or compose, with the one before them, which they may compose with:
// all others are starters that compose with nothing before them, so the text can be normalized in parts that
// begin with such a one. Both ends are the end of the text if there are none.
Span next_unstable(std::string_view text, size_t at) {
  const CharacterTable& table = CharacterTable::instance();
  size_t previous = at;
  uint32_t length = 0;
  for (;; at += length) {
    const size_t begin = at;
    at = skip_ascii(text, at);
    if (at >= text.size()) return {text.size(), text.size()};
    if (at > begin) previous = at - 1;
    if (table.unstable_at(text, at, length)) break;
    previous = at;
  }
  while (at < text.size() && table.unstable_at(text, at, length)) at += length;
  return {previous, at};
}

void normalize_span(Span span, NormalizationForm form, const AlignedText& source, AlignedTextWriter& writer) {
  Decomposer decomposer(form);
  std::vector<Character>& characters = decomposer.characters;
  characters.reserve(span.end - span.begin);
  for (size_t at = span.begin; at < span.end;) {
    const Utf8Character character = decode_utf8(source.text, at);
    decomposer.append(character.code_point, {at, at + character.length});
    at += character.length;
  }
  order_marks(characters);
  if (form.composed) compose_in_place(characters);
  std::string bytes;
  for (const Character& c : characters) {
    bytes.clear();
    append_utf8(bytes, c.code_point);
    writer.append(bytes, c.part);
  }
}

}  // namespace

bool may_change(std::string_view text, NormalizationForm form) {
  if (is_nfc(form)) return next_unstable(text, 0).begin < text.size();
  const CharacterTable& table = CharacterTable::instance();
  for (size_t at = skip_ascii(text, 0); at < text.size(); at = skip_ascii(text, at)) {
    const Utf8Character character = decode_utf8(text, at);
    const bool unstable = form.composed && table.unstable(character.code_point);
    if (unstable || changes_decomposed(character.code_point, form.compatibility)) return true;
    at += character.length;
  }
  return false;
}

AlignedText normalize(const AlignedText& source, NormalizationForm form) {
  AlignedTextWriter writer(source);
  if (!is_nfc(form)) {
    normalize_span({0, source.text.size()}, form, source, writer);
    return writer.finish();
  }
  size_t done = 0;
  while (done < source.text.size()) {
    const Span unstable = next_unstable(source.text, done);
    writer.copy({done, unstable.begin});
    normalize_span(unstable, form, source, writer);
    done = unstable.end;
  }
  return writer.finish();
}

std::string normalize_nfc(std::string_view text) {
  return normalize(AlignedText::of(text, 0, false), kNfc).text;
}

}  // namespace pyllm::tokenizers
