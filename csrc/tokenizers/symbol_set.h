// Sets of characters for regular expressions.
#pragma once

#include <string_view>

#include "expression_syntax.h"

namespace pyllm::tokenizers {

SymbolSet unite(SymbolSet a, const SymbolSet& b);
SymbolSet complement(const SymbolSet& set);
SymbolSet intersect(const SymbolSet& a, const SymbolSet& b);

// \p{name}: general categories (L, Lu, ...) and Han. Empty if the name is not known.
SymbolSet property_set(std::string_view name);
// \s, \d, \w by their letter.
SymbolSet shorthand_set(char letter);
// The set and the other case of its ASCII letters, with U+017F for s and U+212A for k. Throws
// std::invalid_argument if the set holds letters beyond ASCII.
SymbolSet ignore_case(const SymbolSet& set);

}  // namespace pyllm::tokenizers
