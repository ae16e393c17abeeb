// SentencePiece's space: U+2581, which begins words.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace pyllm::tokenizers {

inline constexpr std::string_view kMarker = "\xE2\x96\x81";
inline constexpr uint32_t kMarkerCodePoint = 0x2581;

// The characters that stand before a marker in one of the tokens, but for markers; sorted.
std::vector<uint32_t> characters_before_marker(const std::vector<std::string_view>& tokens);

}  // namespace pyllm::tokenizers
