// The whole way from text to ids and back.
//
//   text -> added tokens -> normalizers -> added tokens that want normalized text -> pretokenizer -> model ->
//   ids
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "added_tokens.h"
#include "aligned_text.h"
#include "decoder.h"
#include "model.h"
#include "normalizers.h"
#include "pretokenizer.h"
#include "pretokenizer_steps.h"
#include "word_cuts.h"

namespace pyllm::tokenizers {

// A list of steps, and then the scanner of a known grammar on every part; either may be missing.
struct Pretokenizer {
  NextPiece scanner = nullptr;
  std::vector<PretokenizerStepPointer> steps;
};

struct TokenizerDefinition {
  std::shared_ptr<const Model> model;
  DecodingTables decoding;
  std::vector<NormalizerStep> normalizers;
  Pretokenizer pretokenizer;
  std::vector<AddedToken> added_tokens;
  std::optional<DoubleArrayTrie> added_trie;  // of all their contents, if it is made already
};

struct EncodeOptions {
  // By position in the list of added tokens; tokens that are not special must be in.
  TokenFilter matched;
  // Parts of the text, sorted, that are plain text for the tokens of `guarded`: those do not match if they
  // touch one.
  std::vector<Span> plain;
  TokenFilter guarded;
};

// What a text was on its way to ids. Origins are bytes of the text.
struct EncodeTrace {
  struct Part {
    Span origin;
    std::string text;
  };
  std::vector<Part> normalized;  // what the normalizers made of the text between added tokens
  std::vector<Part> pieces;      // by number: what the model was given, or an added token
};

// Where ids go.
struct EncodeOutput {
  std::vector<TokenId> ids;
  // If `with_offsets`, for each id: bytes of the text, and which piece it is of (added tokens count as one).
  std::vector<Span> offsets;
  std::vector<uint32_t> pieces;
  bool with_offsets = false;
  EncodeTrace* trace = nullptr;  // filled if `with_offsets`
  // Text is no longer read once there are more ids than this.
  size_t most_ids = SIZE_MAX;

  bool full() const { return ids.size() > most_ids; }
};

// A part of a text that is encoded without regard to the others: an added token, or text.
struct Segment {
  Span span;
  const AddedToken* token;  // nullptr: text
  bool continues;           // text that goes on where the segment before was cut
};

// Immutable after construction: any number of threads may call it at once.
class Tokenizer {
 public:
  // Throws std::invalid_argument.
  explicit Tokenizer(TokenizerDefinition definition);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Appends the ids of the text.
  void encode(std::string_view text, const EncodeOptions& options, EncodeOutput& out) const;

  // What the text consists of, its ids being those of the segments one after the other; text is cut into
  // parts of `size` bytes or a little more, at places where that is proven not to change any id.
  std::vector<Segment> segments(std::string_view text, const EncodeOptions& options, size_t size) const;
  // Appends the ids of some successive segments of the text, without offsets.
  void encode_segments(std::string_view text, std::span<const Segment> segments, const EncodeOptions& options,
                       std::vector<TokenId>& ids) const;

  // The leftmost added token of the filter that occurs in the text, or nullptr.
  const AddedToken* find_added(std::string_view text, const TokenFilter& filter) const;

  const std::vector<AddedToken>& added_tokens() const { return added_; }
  const Model& model() const { return *model_; }
  const Decoder& decoder() const { return decoder_; }

  // Writes the tables that take time to make.
  void store(SectionWriter& file) const;

 private:
  class ScratchLease;
  struct Work;

  static void add_token(const AddedToken& token, Span origin, Work& work);
  void encode_between(std::string_view text, size_t begin, const std::vector<Span>& plain, Work& work) const;
  void encode_words(std::string_view text, size_t begin, Work& work) const;
  void encode_following_words(std::string_view text, Work& work) const;
  size_t next_cut(std::string_view text, size_t from) const;
  void encode_whole(std::string_view text, size_t begin, const std::vector<Span>& plain, Work& work) const;
  bool go_on(size_t before, Work& work) const;
  TokenId encode_rest(std::string_view word, Work& work) const;
  void encode_normalized(const AlignedText& text, bool at_start, const std::vector<Span>& plain,
                         Work& work) const;
  void encode_plain(std::string_view text, Work& work) const;
  void encode_parts(AlignedText text, bool at_start, Work& work) const;
  void encode_piece(const AlignedText& text, Span piece, Work& work) const;
  Pieces pieces_of(AlignedText text, bool at_start) const;
  Pieces pieces_of_rest(std::string_view text) const;
  WordCuts word_cuts() const;
  const std::vector<AddedToken>& in_normal_form();
  AlignedText normalized(AlignedText text) const;
  bool may_change(std::string_view text) const;

  std::shared_ptr<const Model> model_;
  std::vector<NormalizerStep> normalizers_;
  Pretokenizer pretokenizer_;
  bool scanner_only_, minds_start_, has_memory_;
  std::vector<AddedToken> added_;
  std::vector<AddedToken> added_in_normal_form_;  // what the second search looks for
  AddedTokenMatcher all_, raw_, normalized_;
  WordCuts cuts_;
  Decoder decoder_;

  mutable std::mutex scratch_mutex_;
  mutable std::vector<std::unique_ptr<EncoderScratch>> scratch_;
};

}  // namespace pyllm::tokenizers
