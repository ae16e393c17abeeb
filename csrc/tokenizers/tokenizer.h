// The whole way from text to ids: added tokens, normalizer, pretokenizer, byte-pair encoding.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "added_tokens.h"
#include "byte_pair_encoder.h"
#include "pretokenizer.h"

namespace pyllm::tokenizers {

struct TokenizerDefinition {
  BytePairDefinition byte_pairs;
  std::string grammar;  // see find_pretokenizer
  bool nfc = false;     // normalize text between added tokens to NFC
  std::vector<AddedToken> added_tokens;
};

struct EncodeOptions {
  // By position in the list of added tokens; tokens that are not special must be in.
  TokenFilter matched;
  // Parts of the text where special tokens are plain text.
  std::vector<Span> plain;
};

// Immutable after construction: any number of threads may call it at once.
class Tokenizer {
 public:
  // Throws std::invalid_argument.
  explicit Tokenizer(TokenizerDefinition definition);
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Appends the ids of the text.
  void encode(std::string_view text, const EncodeOptions& options, std::vector<TokenId>& out) const;

  // The leftmost added token of the filter that occurs in the text, or nullptr.
  const AddedToken* find_added(std::string_view text, const TokenFilter& filter) const;

  // Appends the bytes of the token. Throws std::invalid_argument for an id without token.
  void decode(int64_t id, std::string& out) const;

  const std::vector<AddedToken>& added_tokens() const { return added_; }
  const BytePairEncoder& byte_pairs() const { return encoder_; }

 private:
  class ScratchLease;

  void encode_between(std::string_view text, const EncodeOptions& options, EncoderScratch& scratch,
                      std::vector<TokenId>& out) const;
  void encode_normalized(std::string_view text, const EncodeOptions& options, EncoderScratch& scratch,
                         std::vector<TokenId>& out) const;

  std::vector<AddedToken> added_;
  std::vector<AddedToken> added_in_normal_form_;  // what the second search looks for
  BytePairEncoder encoder_;
  NextPiece next_piece_;
  bool nfc_;
  AddedTokenMatcher all_, raw_, normalized_;

  mutable std::mutex scratch_mutex_;
  mutable std::vector<std::unique_ptr<EncoderScratch>> scratch_;
};

}  // namespace pyllm::tokenizers
