#include "normalizers.h"

#include <algorithm>

#include "charsmap.h"
#include "graphemes.h"
#include "text_properties.h"
#include "utf8.h"

namespace pyllm::tokenizers {
namespace {

// Calls visit(character, span) for every character of the text.
template <typename Visit>
void for_each_character(std::string_view text, Visit&& visit) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Character character = decode_utf8(text, at);
    visit(character.code_point, Span{at, at + character.length});
    at += character.length;
  }
}

AlignedText remove_if(const AlignedText& source, bool (*removed)(uint32_t)) {
  AlignedTextWriter writer(source);
  for_each_character(source.text, [&](uint32_t code_point, Span part) {
    if (!removed(code_point)) writer.copy(part);
  });
  return writer.finish();
}

AlignedText lowered(const AlignedText& source) {
  AlignedTextWriter writer(source);
  std::string bytes;
  for_each_character(source.text, [&](uint32_t code_point, Span part) {
    bytes.clear();
    append_utf8(bytes, code_point == kDottedI ? 'i' : lower_case(code_point));
    if (code_point == kDottedI) append_utf8(bytes, kCombiningDot);
    writer.append(bytes, part);
  });
  return writer.finish();
}

class Form final : public Normalizer {
 public:
  explicit Form(NormalizationForm form) : form_(form) {}
  bool may_change(std::string_view text) const override { return tokenizers::may_change(text, form_); }
  AlignedText apply(const AlignedText& source) const override { return normalize(source, form_); }
  bool is_local() const override { return true; }
  bool keeps_lines() const override { return !form_.compatibility; }

 private:
  NormalizationForm form_;
};

class Lowercase final : public Normalizer {
 public:
  AlignedText apply(const AlignedText& source) const override { return lowered(source); }
  bool is_local() const override { return true; }
};

class StripAccents final : public Normalizer {
 public:
  AlignedText apply(const AlignedText& source) const override {
    return remove_if(source, [](uint32_t c) { return has_property(c, TextProperty::accent); });
  }
  bool is_local() const override { return true; }
};

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}

  AlignedText apply(const AlignedText& source) const override { return stripped(source, left_); }
  bool is_local() const override { return true; }
  AlignedText apply_to_rest(const AlignedText& source) const override { return stripped(source, false); }

 private:
  AlignedText stripped(const AlignedText& source, bool left) const {
    const std::string_view text = source.text;
    Span kept{0, text.size()};
    while (left && kept.begin < kept.end) {
      const Utf8Character first = decode_utf8(text, kept.begin);
      if (!is_whitespace(first.code_point)) break;
      kept.begin += first.length;
    }
    while (right_ && kept.begin < kept.end) {
      const size_t last = previous_utf8(text, kept.end);
      if (!is_whitespace(decode_utf8(text, last).code_point)) break;
      kept.end = last;
    }
    AlignedTextWriter writer(source);
    writer.copy(kept);
    return writer.finish();
  }

  bool left_, right_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string text) : text_(std::move(text)) {}

  AlignedText apply(const AlignedText& source) const override {
    AlignedTextWriter writer(source);
    if (!source.text.empty()) writer.append(text_, {0, decode_utf8(source.text, 0).length});
    writer.copy({0, source.text.size()});
    return writer.finish();
  }
  bool is_local() const override { return true; }
  AlignedText apply_to_rest(const AlignedText& source) const override { return source; }

 private:
  std::string text_;
};

class Replace final : public Normalizer {
 public:
  Replace(TextPatternPointer pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  AlignedText apply(const AlignedText& source) const override {
    std::vector<Span> matches;
    pattern_->find_all(source.text, matches);
    AlignedTextWriter writer(source);
    size_t at = 0;
    for (const Span& match : matches) {
      writer.copy({at, match.begin});
      writer.append(content_, match);
      at = match.end;
    }
    writer.copy({at, source.text.size()});
    return writer.finish();
  }
  bool is_local() const override { return pattern_->is_local(); }

 private:
  TextPatternPointer pattern_;
  std::string content_;
};

// A short cluster is replaced as a whole by the rule of its shortest prefix, whatever follows; longer ones
// character by character. That is not SentencePiece, but what the tokenizers package does.
class Precompiled final : public Normalizer {
 public:
  explicit Precompiled(std::string_view charsmap) : charsmap_(charsmap) {}

  AlignedText apply(const AlignedText& source) const override {
    constexpr size_t kShortCluster = 6;
    const std::string_view text = source.text;
    AlignedTextWriter writer(source);
    for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
      end = next_grapheme(text, begin);
      if (end - begin < kShortCluster && replace({begin, end}, text, writer)) continue;
      for_each_character(text.substr(begin, end - begin), [&](uint32_t, Span part) {
        const Span character{begin + part.begin, begin + part.end};
        if (!replace(character, text, writer)) writer.copy(character);
      });
    }
    return writer.finish();
  }
  // Between such a character and a space there is always a border of grapheme clusters.
  bool is_local() const override { return true; }

 private:
  bool replace(Span part, std::string_view text, AlignedTextWriter& writer) const {
    const Charsmap::Match rule = charsmap_.shortest(text.substr(part.begin, part.end - part.begin));
    if (rule.length > 0) writer.append(rule.replacement, part);
    return rule.length > 0;
  }

  Charsmap charsmap_;
};

class Bert final : public Normalizer {
 public:
  explicit Bert(BertNormalizerOptions options) : options_(options) {}

  AlignedText apply(const AlignedText& source) const override {
    AlignedText text = clean(source);
    if (options_.strip_accents) {
      text = remove_if(normalize(text, kNfd),
                       [](uint32_t c) { return has_property(c, TextProperty::bert_accent); });
    }
    return options_.lowercase ? lowered(text) : text;
  }
  bool is_local() const override { return true; }

 private:
  AlignedText clean(const AlignedText& source) const {
    AlignedTextWriter writer(source);
    for_each_character(source.text, [&](uint32_t code_point, Span part) {
      if (options_.clean_text && has_property(code_point, TextProperty::control)) return;
      const bool chinese = options_.handle_chinese_chars && is_bert_chinese(code_point);
      if (chinese) writer.append(" ", part);
      if (options_.clean_text && is_whitespace(code_point)) {
        writer.append(" ", part);
      } else {
        writer.copy(part);
      }
      if (chinese) writer.append(" ", part);
    });
    return writer.finish();
  }

  BertNormalizerOptions options_;
};

}  // namespace

NormalizerStep make_form(NormalizationForm form) { return std::make_unique<Form>(form); }
NormalizerStep make_lowercase() { return std::make_unique<Lowercase>(); }
NormalizerStep make_strip_accents() { return std::make_unique<StripAccents>(); }
NormalizerStep make_strip(bool left, bool right) { return std::make_unique<Strip>(left, right); }
NormalizerStep make_prepend(std::string text) { return std::make_unique<Prepend>(std::move(text)); }
NormalizerStep make_replace(TextPatternPointer pattern, std::string content) {
  return std::make_unique<Replace>(std::move(pattern), std::move(content));
}
NormalizerStep make_precompiled(std::string_view charsmap) { return std::make_unique<Precompiled>(charsmap); }
NormalizerStep make_bert_normalizer(BertNormalizerOptions options) { return std::make_unique<Bert>(options); }

}  // namespace pyllm::tokenizers
