#include "pretokenizer_steps.h"

#include <algorithm>
#include <utility>

#include "utf8.h"

namespace pyllm::tokenizers {
namespace {

struct Section {
  Span span;
  bool is_match;
};

// The matches and what lies between them, in order.
void cut_at_matches(Span part, const std::vector<Span>& matches, bool invert,
                    std::vector<Section>& sections) {
  sections.clear();
  size_t at = part.begin;
  for (const Span& match : matches) {
    const Span found{part.begin + match.begin, part.begin + match.end};
    if (at < found.begin) sections.push_back({{at, found.begin}, invert});
    sections.push_back({found, !invert});
    at = found.end;
  }
  if (at < part.end) sections.push_back({{at, part.end}, invert});
}

class Split final : public PretokenizerStep {
 public:
  Split(TextPatternPointer pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void apply(Pieces& pieces) const override {
    const std::string_view text = pieces.text.text;
    std::vector<Span> matches, parts;
    std::vector<Section> sections;
    for (const Span& part : pieces.parts) {
      matches.clear();
      pattern_->find_all(text.substr(part.begin, part.end - part.begin), matches);
      cut_at_matches(part, matches, invert_, sections);
      append(sections, parts);
    }
    std::erase_if(parts, [](const Span& part) { return part.begin == part.end; });
    pieces.parts = std::move(parts);
  }
  bool is_local() const override { return pattern_->is_local(); }

 private:
  void append(const std::vector<Section>& sections, std::vector<Span>& parts) const {
    const size_t first = parts.size();
    bool previous_match = false;
    for (size_t i = 0; i < sections.size(); ++i) {
      const auto [span, is_match] = sections[i];
      bool joins = false;
      switch (behavior_) {
        case SplitBehavior::removed:
          if (is_match) continue;
          break;
        case SplitBehavior::isolated:
          break;
        case SplitBehavior::contiguous:
          joins = i > 0 && is_match == previous_match;
          break;
        case SplitBehavior::merged_with_previous:
          joins = is_match && !previous_match;
          break;
        case SplitBehavior::merged_with_next:
          joins = previous_match && !is_match;
          break;
      }
      previous_match = is_match;
      if (joins && parts.size() > first) {
        parts.back().end = span.end;
      } else {
        parts.push_back(span);
      }
    }
  }

  TextPatternPointer pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

class Metaspace final : public PretokenizerStep {
 public:
  Metaspace(std::string marker, PrependScheme scheme) : marker_(std::move(marker)), scheme_(scheme) {}

  bool minds_start() const override { return scheme_ == PrependScheme::first; }
  bool is_local() const override { return true; }

  void apply(Pieces& pieces) const override {
    AlignedTextWriter writer(pieces.text);
    std::vector<Span> parts;
    for (const Span& part : pieces.parts) {
      const size_t begin = writer.size();
      write(part, pieces, writer);
      parts.push_back({begin, writer.size()});
    }
    pieces.text = writer.finish();
    pieces.parts = std::move(parts);
  }

 private:
  void write(Span part, const Pieces& pieces, AlignedTextWriter& writer) const {
    const std::string_view text = pieces.text.text;
    const std::string_view all = text.substr(part.begin, part.end - part.begin);
    const bool first =
        pieces.text.aligned ? pieces.text.origins[part.begin].begin == 0 : pieces.at_start && part.begin == 0;
    const bool wanted = scheme_ == PrependScheme::always || (scheme_ == PrependScheme::first && first);
    if (wanted && !all.starts_with(' ') && !all.starts_with(marker_)) {
      writer.append(marker_, {part.begin, part.begin + decode_utf8(text, part.begin).length});
    }
    for (size_t at = part.begin; at < part.end;) {
      const size_t space = std::min(text.find(' ', at), part.end);
      writer.copy({at, space});
      if (space < part.end) writer.append(marker_, {space, space + 1});
      at = space + 1;
    }
  }

  std::string marker_;
  PrependScheme scheme_;
};

class PrefixSpace final : public PretokenizerStep {
 public:
  void apply(Pieces& pieces) const override {
    AlignedTextWriter writer(pieces.text);
    std::vector<Span> parts;
    for (const Span& part : pieces.parts) {
      const size_t begin = writer.size();
      const std::string_view text = pieces.text.text;
      if (text[part.begin] != ' ') {
        writer.append(" ", {part.begin, part.begin + decode_utf8(text, part.begin).length});
      }
      writer.copy(part);
      parts.push_back({begin, writer.size()});
    }
    pieces.text = writer.finish();
    pieces.parts = std::move(parts);
  }
};

class Chain final : public PretokenizerStep {
 public:
  Chain(PretokenizerStepPointer first, PretokenizerStepPointer second)
      : first_(std::move(first)), second_(std::move(second)) {}

  bool minds_start() const override { return first_->minds_start() || second_->minds_start(); }
  bool is_local() const override { return first_->is_local() && second_->is_local(); }

  void apply(Pieces& pieces) const override {
    first_->apply(pieces);
    second_->apply(pieces);
  }

 private:
  PretokenizerStepPointer first_, second_;
};

}  // namespace

PretokenizerStepPointer make_split(TextPatternPointer pattern, SplitBehavior behavior, bool invert) {
  return std::make_unique<Split>(std::move(pattern), behavior, invert);
}

PretokenizerStepPointer make_metaspace(std::string marker, PrependScheme scheme, bool split) {
  TextPatternPointer pattern = make_literal(marker);
  auto replace = std::make_unique<Metaspace>(std::move(marker), scheme);
  if (!split) return replace;
  auto cut = make_split(std::move(pattern), SplitBehavior::merged_with_next, false);
  return std::make_unique<Chain>(std::move(replace), std::move(cut));
}

PretokenizerStepPointer make_prefix_space() { return std::make_unique<PrefixSpace>(); }

}  // namespace pyllm::tokenizers
