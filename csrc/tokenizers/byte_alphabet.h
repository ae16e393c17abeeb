// GPT-2's printable alphabet: one character for every byte, in which vocabulary files spell their tokens.
#pragma once

#include <string>
#include <string_view>

namespace pyllm::tokenizers {

// Appends the token in the alphabet, in UTF-8.
void append_spelled(std::string_view token, std::string& out);

// Appends the bytes that the alphabet spells; false, and nothing appended, if a character is not in it.
bool append_unspelled(std::string_view spelling, std::string& out);

}  // namespace pyllm::tokenizers
