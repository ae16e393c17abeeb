// General categories and the Han script, Unicode 16.0: what \p{...} in a regular expression asks for.
#pragma once

#include <cstdint>
#include <string_view>

namespace pyllm::tokenizers {

// The order is that of CATEGORIES in unicode/generate_tables.py.
enum class Category : uint8_t {
  Cn,
  Cc,
  Cf,
  Co,
  Lu,
  Ll,
  Lt,
  Lm,
  Lo,
  Mn,
  Mc,
  Me,
  Nd,
  Nl,
  No,  // clang-format off
  Pc, Pd, Ps, Pe, Pi, Pf, Po, Sm, Sc, Sk, So, Zs, Zl, Zp,  // clang-format on
};

Category category_of(uint32_t code_point);
bool is_han(uint32_t code_point);

// One bit for every category of a name as in \p{name}: "Lu", "L", "Letter" is not known. 0: no such name.
uint32_t category_set(std::string_view name);

}  // namespace pyllm::tokenizers
