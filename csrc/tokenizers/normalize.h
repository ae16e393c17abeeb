// Unicode normalization forms.
//
//   characters -> decomposed -> marks sorted by combining class -> composed again (NFC, NFKC)
//
// The data are those of Unicode 9.0, like the tokenizers package's (see unicode/generate_tables.py). Bytes
// that are not UTF-8 stay as they are.
#pragma once

#include <string>
#include <string_view>

#include "aligned_text.h"

namespace pyllm::tokenizers {

struct NormalizationForm {
  bool compatibility;  // NFKC, NFKD
  bool composed;       // NFC, NFKC
};

inline constexpr NormalizationForm kNfc{false, true}, kNfd{false, false};
inline constexpr NormalizationForm kNfkc{true, true}, kNfkd{true, false};

// False only if the form leaves the text as it is; costs one pass and no memory.
bool may_change(std::string_view text, NormalizationForm form);

// O(n log n) in the longest run of combining marks, linear otherwise.
AlignedText normalize(const AlignedText& source, NormalizationForm form);

std::string normalize_nfc(std::string_view text);

}  // namespace pyllm::tokenizers
