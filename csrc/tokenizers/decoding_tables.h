// What tokens are decoded to: the steps of a decoder, each done to every token of a vocabulary at once, so
// that decoding itself only joins bytes.
#pragma once

#include <string_view>

#include "vocabulary.h"

namespace pyllm::tokenizers {

// `from`, which is not empty, becomes `to` wherever it stands in a token.
TokenBytes replaced(const TokenBytes& tokens, std::string_view from, std::string_view to);

// <0x00> ... <0xFF> become the byte they name.
TokenBytes bytes_of_fallback(const TokenBytes& tokens);

// `text` goes in front of every token.
TokenBytes prefixed(const TokenBytes& tokens, std::string_view text);

// `prefix` leaves the start of every token, once or as often as it stands there.
TokenBytes stripped(const TokenBytes& tokens, std::string_view prefix, bool repeatedly);

// WordPiece's tokens behind another: `prefix` joins, what is without it is a new word and gets a space.
TokenBytes continued_words(const TokenBytes& tokens, std::string_view prefix);

// WordPiece's clean-up of English: no space before punctuation and in contractions.
TokenBytes cleaned_up(const TokenBytes& tokens);

// One token takes other bytes.
TokenBytes with_token(const TokenBytes& tokens, TokenId id, std::string_view bytes);

}  // namespace pyllm::tokenizers
