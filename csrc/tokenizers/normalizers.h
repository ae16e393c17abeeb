// Normalizers: what happens to a text before it is cut into pieces. Each is one step, named and behaving as
// in the tokenizers package; a tokenizer has a list of them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "aligned_text.h"
#include "normalize.h"
#include "text_pattern.h"

namespace pyllm::tokenizers {

class Normalizer {
 public:
  virtual ~Normalizer() = default;

  // False only if the step leaves the text as it is; then it is not copied.
  virtual bool may_change(std::string_view text) const { return !text.empty(); }

  virtual AlignedText apply(const AlignedText& source) const = 0;

  // Whether a text that is cut before a space which follows a printing ASCII character may be given to it
  // part by part, the first to `apply` and the others to `apply_to_rest`.
  virtual bool is_local() const { return false; }
  virtual AlignedText apply_to_rest(const AlignedText& source) const { return apply(source); }

  // Whether a text that is cut after a line end (find_safe_cut) may be given to it part by part, and is to be
  // cut there afterwards too.
  virtual bool keeps_lines() const { return false; }
};

using NormalizerStep = std::unique_ptr<const Normalizer>;

NormalizerStep make_form(NormalizationForm form);
NormalizerStep make_lowercase();
NormalizerStep make_strip_accents();
// Removes whitespace at the ends.
NormalizerStep make_strip(bool left, bool right);
// Puts the text before every text that is not empty.
NormalizerStep make_prepend(std::string text);
// Every match of the pattern becomes `content`.
NormalizerStep make_replace(std::unique_ptr<const TextPattern> pattern, std::string content);
// Grapheme by grapheme, with the rules of a SentencePiece charsmap (see charsmap.h).
NormalizerStep make_precompiled(std::string_view charsmap);

struct BertNormalizerOptions {
  bool clean_text = true;            // no control characters, every whitespace becomes a space
  bool handle_chinese_chars = true;  // spaces around ideographs
  bool strip_accents = true;
  bool lowercase = true;
};
NormalizerStep make_bert_normalizer(BertNormalizerOptions options);

struct SentencePieceOptions {
  std::string charsmap;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;  // a space becomes U+2581
  bool treat_whitespace_as_suffix = false;
  std::vector<std::string> user_defined;  // stay as they are
};
// SentencePiece's own normalizer.
NormalizerStep make_sentencepiece(SentencePieceOptions options);

}  // namespace pyllm::tokenizers
