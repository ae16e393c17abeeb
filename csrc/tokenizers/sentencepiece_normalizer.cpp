// SentencePiece's normalizer:
//
//   "  Hello   ①2 "  ->  "▁Hello▁12"
//
// Left to right, the longest of the charsmap's rules at every place; runs of spaces shrink to one and leave
// the ends, a dummy space stands in front, and spaces are spelled U+2581. User-defined symbols stay as they
// are.
#include <algorithm>

#include "charsmap.h"
#include "double_array_trie.h"
#include "marker.h"
#include "normalizers.h"
#include "utf8.h"

namespace pyllm::tokenizers {
namespace {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

std::vector<DoubleArrayTrie::Entry> entries_of(const std::vector<std::string>& symbols) {
  std::vector<DoubleArrayTrie::Entry> entries;
  for (const std::string& symbol : symbols) {
    check_sought(symbol, "a user-defined symbol");
    entries.emplace_back(symbol, 0);
  }
  return entries;
}

class SentencePiece final : public Normalizer {
 public:
  explicit SentencePiece(SentencePieceOptions options)
      : options_(std::move(options)),
        charsmap_(options_.charsmap),
        user_defined_(entries_of(options_.user_defined)),
        space_(options_.escape_whitespaces ? kMarker : " "),
        is_local_(!options_.treat_whitespace_as_suffix && charsmap_.is_local() &&
                  std::none_of(
                      options_.user_defined.begin(), options_.user_defined.end(),
                      [](const std::string& symbol) { return symbol.find(' ', 1) != std::string::npos; })) {}

  AlignedText apply(const AlignedText& source) const override {
    AlignedTextWriter writer(source);
    const std::string_view text = source.text;
    const size_t at = options_.remove_extra_whitespaces ? after_leading_spaces(text) : 0;
    if (at == text.size()) return writer.finish();
    const Span first{at, at + next(text, at).length};
    if (options_.add_dummy_prefix && !options_.treat_whitespace_as_suffix) writer.append(space_, first);
    write_all(text, at, options_.remove_extra_whitespaces, writer);
    if (options_.add_dummy_prefix && options_.treat_whitespace_as_suffix) {
      writer.append(space_, {text.size(), text.size()});
    }
    return writer.finish();
  }

  bool is_local() const override { return is_local_; }
  AlignedText apply_to_rest(const AlignedText& source) const override {
    AlignedTextWriter writer(source);
    write_all(source.text, 0, false, writer);
    return writer.finish();
  }

 private:
  void write_all(std::string_view text, size_t at, bool after_space, AlignedTextWriter& writer) const {
    while (at < text.size()) {
      const Charsmap::Match part = next(text, at);
      write(part.replacement, {at, at + part.length}, after_space, writer);
      at += part.length;
    }
    if (options_.remove_extra_whitespaces) {
      while (writer.text().ends_with(space_)) writer.shorten(writer.size() - space_.size());
    }
  }

  // What stands at `at` and what it becomes.
  Charsmap::Match next(std::string_view text, size_t at) const {
    if (const size_t length = user_defined_.longest_at(text, at).second; length > 0) {
      return {length, text.substr(at, length)};
    }
    if (const Charsmap::Match rule = charsmap_.longest_at(text, at); rule.length > 0) return rule;
    const Utf8Character character = decode_utf8(text, at);
    if (character.code_point >= kInvalidByte) return {1, kReplacementCharacter};
    return {character.length, text.substr(at, character.length)};
  }

  size_t after_leading_spaces(std::string_view text) const {
    size_t at = 0;
    while (at < text.size()) {
      const Charsmap::Match part = next(text, at);
      if (part.replacement != " ") break;
      at += part.length;
    }
    return at;
  }

  void write(std::string_view replacement, Span part, bool& after_space, AlignedTextWriter& writer) const {
    while (after_space && replacement.starts_with(' ')) replacement.remove_prefix(1);
    for (size_t at = 0; at < replacement.size();) {
      const size_t space = std::min(replacement.find(' ', at), replacement.size());
      if (space > at) writer.append(replacement.substr(at, space - at), part);
      if (space < replacement.size()) writer.append(space_, part);
      at = space + 1;
    }
    if (!replacement.empty()) after_space = replacement.ends_with(' ');
    if (!options_.remove_extra_whitespaces) after_space = false;
  }

  SentencePieceOptions options_;
  Charsmap charsmap_;
  DoubleArrayTrie user_defined_;
  std::string_view space_;
  bool is_local_;
};

}  // namespace

NormalizerStep make_sentencepiece(SentencePieceOptions options) {
  return std::make_unique<SentencePiece>(std::move(options));
}

}  // namespace pyllm::tokenizers
