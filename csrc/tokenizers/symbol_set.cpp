#include "symbol_set.h"

#include <algorithm>
#include <functional>
#include <stdexcept>

#include "character_class.h"
#include "general_category.h"

namespace pyllm::tokenizers {
namespace {

SymbolSet collect(const std::function<bool(uint32_t)>& contains) {
  SymbolSet set;
  for (uint32_t c = 0; c < kLastSymbol; ++c) {
    if (!contains(c)) continue;
    if (set.empty() || set.back().last + 1 != c) set.push_back({c, c});
    set.back().last = c;
  }
  return set;
}

}  // namespace

SymbolSet unite(SymbolSet a, const SymbolSet& b) {
  a.insert(a.end(), b.begin(), b.end());
  std::sort(a.begin(), a.end(), [](SymbolRange x, SymbolRange y) { return x.first < y.first; });
  SymbolSet joined;
  for (const SymbolRange range : a) {
    if (!joined.empty() && range.first <= joined.back().last + 1) {
      joined.back().last = std::max(joined.back().last, range.last);
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

SymbolSet complement(const SymbolSet& set) {
  SymbolSet result;
  uint32_t next = 0;
  for (const SymbolRange range : set) {
    if (range.first > next) result.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kLastSymbol) result.push_back({next, kLastSymbol});
  return result;
}

SymbolSet intersect(const SymbolSet& a, const SymbolSet& b) {
  return complement(unite(complement(a), complement(b)));
}

SymbolSet property_set(std::string_view name) {
  if (name == "Han") return collect(is_han);
  const uint32_t categories = category_set(name);
  if (categories == 0) return {};
  return collect([=](uint32_t c) { return (categories >> static_cast<uint32_t>(category_of(c)) & 1) != 0; });
}

SymbolSet shorthand_set(char letter) {
  if (letter == 'd') return property_set("Nd");
  const ClassSet classes = letter == 's' ? kSpaces : kWordCharacters;
  const CharacterTable& table = CharacterTable::instance();
  const SymbolSet set = collect([&](uint32_t c) { return (class_set(table.class_of(c)) & classes) != 0; });
  if (letter == 's') return set;
  // Oniguruma's word characters: the numbers of Latin-1 are in, the two joiners are not.
  const SymbolSet joiners{{0x200C, 0x200D}};
  return unite(intersect(set, complement(joiners)), {{0xB2, 0xB3}, {0xB9, 0xB9}, {0xBC, 0xBE}});
}

SymbolSet ignore_case(const SymbolSet& set) {
  constexpr uint32_t kLongS = 0x17F, kKelvin = 0x212A;
  SymbolSet result = set;
  const auto add = [&](uint32_t c) { result = unite(std::move(result), {{c, c}}); };
  for (const SymbolRange range : set) {
    if (range.last >= 0x80) throw std::invalid_argument("(?i) with characters beyond ASCII");
    for (uint32_t c = range.first; c <= range.last; ++c) {
      const uint32_t lower = c | 0x20;
      if (lower < 'a' || lower > 'z') continue;
      add(lower);
      add(lower - 0x20);
      if (lower == 's') add(kLongS);
      if (lower == 'k') add(kKelvin);
    }
  }
  return result;
}

}  // namespace pyllm::tokenizers
