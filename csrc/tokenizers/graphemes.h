// Extended grapheme clusters (UAX 29, Unicode 17): what a reader takes for one character.
#pragma once

#include <cstddef>
#include <string_view>

namespace pyllm::tokenizers {

// End of the cluster that starts at `begin` (begin < text.size()).
size_t next_grapheme(std::string_view text, size_t begin);

}  // namespace pyllm::tokenizers
