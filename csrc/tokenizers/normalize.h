// Unicode Normalization Form C (UAX #15) over UTF-8. Bytes that are not UTF-8 stay as they are.
#pragma once

#include <string>
#include <string_view>

namespace pyllm::tokenizers {

// False only if NFC(text) == text is certain; costs one pass and no memory.
bool may_change_under_nfc(std::string_view text);

// NFC of the text. The composition data are those of Unicode 9.0, like the tokenizers package's (see
// unicode/generate_tables.py). O(n log n) in the longest run of combining marks, linear otherwise.
std::string normalize_nfc(std::string_view text);

}  // namespace pyllm::tokenizers
