#include "tokenizer.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <stdexcept>

#include "encoder_scratch.h"

namespace pyllm::tokenizers {
namespace {

std::vector<bool> select(const std::vector<AddedToken>& tokens, bool AddedToken::* flag, bool value) {
  std::vector<bool> selected;
  for (const AddedToken& token : tokens) selected.push_back(token.*flag == value);
  return selected;
}

bool none_is(const std::vector<AddedToken>& tokens, bool AddedToken::* flag) {
  return std::none_of(tokens.begin(), tokens.end(), [&](const AddedToken& token) { return token.*flag; });
}

// The part of the spans that lies in [begin, end), relative to begin.
std::vector<Span> clip(const std::vector<Span>& spans, size_t begin, size_t end) {
  std::vector<Span> clipped;
  const auto first = std::lower_bound(spans.begin(), spans.end(), begin,
                                      [](const Span& span, size_t at) { return span.end <= at; });
  for (auto span = first; span != spans.end() && span->begin < end; ++span) {
    clipped.push_back({std::max(span->begin, begin) - begin, std::min(span->end, end) - begin});
  }
  return clipped;
}

// The parts of an aligned text that come from the spans, which are relative to `begin`.
std::vector<Span> made_of(const AlignedText& text, size_t begin, const std::vector<Span>& spans) {
  std::vector<Span> parts;
  for (size_t at = 0; at < text.origins.size(); ++at) {
    const Span& origin = text.origins[at];
    if (clip(spans, origin.begin - begin, std::max(origin.end, origin.begin + 1) - begin).empty()) continue;
    if (!parts.empty() && parts.back().end == at) {
      ++parts.back().end;
    } else {
      parts.push_back({at, at + 1});
    }
  }
  return parts;
}

// Calls gap(begin, end) and token(match) in the order of the text.
template <typename Gap, typename Token>
void walk_matches(std::string_view text, const std::vector<AddedTokenMatch>& matches, Gap&& gap,
                  Token&& token) {
  size_t at = 0;
  for (const AddedTokenMatch& match : matches) {
    if (at < match.begin) gap(at, match.begin);
    token(match);
    at = match.end;
  }
  if (at < text.size()) gap(at, text.size());
}

}  // namespace

// Lends working memory. A lock that is taken (perhaps for ever, in a forked child) only costs a fresh
// allocation.
class Tokenizer::ScratchLease {
 public:
  explicit ScratchLease(const Tokenizer& owner) : owner_(owner) {
    const std::unique_lock lock(owner_.scratch_mutex_, std::try_to_lock);
    if (lock.owns_lock() && !owner_.scratch_.empty()) {
      scratch_ = std::move(owner_.scratch_.back());
      owner_.scratch_.pop_back();
    } else {
      scratch_ = std::make_unique<EncoderScratch>();
    }
  }
  ScratchLease(const ScratchLease&) = delete;
  ScratchLease& operator=(const ScratchLease&) = delete;
  ~ScratchLease() {
    scratch_->trim();
    const std::unique_lock lock(owner_.scratch_mutex_, std::try_to_lock);
    if (lock.owns_lock() && owner_.scratch_.size() < owner_.scratch_.capacity()) {
      owner_.scratch_.push_back(std::move(scratch_));
    }
  }

  EncoderScratch& operator*() { return *scratch_; }

 private:
  const Tokenizer& owner_;
  std::unique_ptr<EncoderScratch> scratch_;
};

namespace {

constexpr size_t kKeptScratch = 64;

}  // namespace

struct Tokenizer::Work {
  const EncodeOptions& options;
  EncoderScratch& scratch;
  EncodeOutput& out;
  std::vector<size_t> lengths;
  uint32_t piece = 0;  // how many are done
};

Tokenizer::Tokenizer(TokenizerDefinition definition)
    : model_(std::move(definition.model)),
      normalizers_(std::move(definition.normalizers)),
      pretokenizer_(std::move(definition.pretokenizer)),
      scanner_only_(pretokenizer_.scanner != nullptr && pretokenizer_.steps.empty()),
      minds_start_(std::any_of(pretokenizer_.steps.begin(), pretokenizer_.steps.end(),
                               [](const PretokenizerStepPointer& step) { return step->minds_start(); })),
      has_memory_(model_->has_memory() && pretokenizer_.steps.empty()),
      added_(std::move(definition.added_tokens)),
      added_in_normal_form_(added_),
      all_(added_, definition.added_trie ? *std::move(definition.added_trie)
                                         : added_trie(added_, std::vector<bool>(added_.size(), true))),
      raw_(none_is(added_, &AddedToken::normalized)
               ? all_
               : AddedTokenMatcher(added_, select(added_, &AddedToken::normalized, false))),
      normalized_(in_normal_form(), select(added_, &AddedToken::normalized, true)),
      cuts_(word_cuts()),
      decoder_(std::move(definition.decoding), added_) {
  scratch_.reserve(kKeptScratch);
  if (scanner_only_) {
    // The caches of the first scratch are made now, so that the first text does not wait for their memory.
    EncodeOutput ignored;
    encode("qzxjqzxjqzxjqzxj", {TokenFilter(added_.size(), true), {}, {}}, ignored);
  }
}

Tokenizer::~Tokenizer() = default;

const std::vector<AddedToken>& Tokenizer::in_normal_form() {
  for (AddedToken& token : added_in_normal_form_) {
    if (token.normalized) token.content = normalized(AlignedText::of(token.content, 0, false)).text;
  }
  return added_in_normal_form_;
}

void Tokenizer::store(SectionWriter& file) const {
  model_->store(file);
  decoder_.store(file);
  store_added_trie(added_, file);
}

bool Tokenizer::may_change(std::string_view text) const {
  return std::any_of(normalizers_.begin(), normalizers_.end(),
                     [&](const NormalizerStep& step) { return step->may_change(text); });
}

AlignedText Tokenizer::normalized(AlignedText text) const {
  for (const NormalizerStep& step : normalizers_) {
    if (step->may_change(text.text)) text = step->apply(text);
  }
  return text;
}

void Tokenizer::encode(std::string_view text, const EncodeOptions& options, EncodeOutput& out) const {
  ScratchLease scratch(*this);
  Work work{options, *scratch, out, {}, 0};
  const auto gap = [&](size_t begin, size_t end) {
    if (out.full()) return;
    encode_between(text.substr(begin, end - begin), begin, clip(options.plain, begin, end), work);
  };
  walk_matches(
      text, raw_.find_all(text, options.matched, options.plain, options.guarded), gap,
      [&](const AddedTokenMatch& match) { add_token(*match.token, {match.begin, match.end}, work); });
}

std::vector<Segment> Tokenizer::segments(std::string_view text, const EncodeOptions& options,
                                         size_t size) const {
  std::vector<Segment> found;
  const auto gap = [&](size_t begin, size_t end) {
    const std::string_view whole = text.substr(begin, end - begin);
    for (size_t at = 0, cut; at < whole.size(); at = cut) {
      cut = whole.size() - at > size ? next_cut(whole, at + size) : whole.size();
      found.push_back({{begin + at, begin + cut}, nullptr, at > 0});
    }
  };
  walk_matches(
      text, raw_.find_all(text, options.matched, options.plain, options.guarded), gap,
      [&](const AddedTokenMatch& match) { found.push_back({{match.begin, match.end}, match.token, false}); });
  return found;
}

// The first place at or behind `from` where the text may be cut into parts; its size if there is none.
size_t Tokenizer::next_cut(std::string_view text, size_t from) const {
  if (cuts_.any()) return has_memory_ ? text.size() : cuts_.next(text, from);
  if (!scanner_only_ || !normalized_.empty()) return text.size();
  if (normalizers_.empty()) return find_border(pretokenizer_.scanner, text, from);
  const bool lines = std::all_of(normalizers_.begin(), normalizers_.end(),
                                 [](const NormalizerStep& step) { return step->keeps_lines(); });
  return lines ? find_safe_cut(pretokenizer_.scanner, text, from) : text.size();
}

void Tokenizer::encode_segments(std::string_view text, std::span<const Segment> segments,
                                const EncodeOptions& options, std::vector<TokenId>& ids) const {
  ScratchLease scratch(*this);
  EncodeOutput out;
  out.ids = std::move(ids);
  Work work{options, *scratch, out, {}, 0};
  for (const Segment& segment : segments) {
    const auto [begin, end] = segment.span;
    if (segment.token != nullptr) {
      out.ids.push_back(segment.token->id);
    } else if (segment.continues && cuts_.any()) {
      encode_following_words(text.substr(begin, end - begin), work);
    } else {
      encode_between(text.substr(begin, end - begin), begin, clip(options.plain, begin, end), work);
    }
  }
  ids = std::move(out.ids);
}

void Tokenizer::add_token(const AddedToken& token, Span origin, Work& work) {
  work.out.ids.push_back(token.id);
  if (!work.out.with_offsets) return;
  if (work.out.trace != nullptr) work.out.trace->pieces.push_back({origin, token.content});
  work.out.offsets.push_back(origin);
  work.out.pieces.push_back(work.piece++);
}

// Text that no normalizer changes and that nobody wants offsets of is read where it stands. A pretokenizer
// that cares for the start of the text needs to know where normalized text comes from.
void Tokenizer::encode_between(std::string_view text, size_t begin, const std::vector<Span>& plain,
                               Work& work) const {
  if (cuts_.any() && !work.out.with_offsets) {
    encode_words(text, begin, work);
    return;
  }
  if (!work.out.with_offsets && scanner_only_ && normalized_.empty() && !may_change(text)) {
    encode_plain(text, work);
    return;
  }
  encode_whole(text, begin, plain, work);
}

void Tokenizer::encode_whole(std::string_view text, size_t begin, const std::vector<Span>& plain,
                             Work& work) const {
  work.scratch.path_score = 0;
  const bool changes = may_change(text);
  const bool aligned = work.out.with_offsets || (changes && (minds_start_ || !plain.empty()));
  AlignedText source = AlignedText::of(text, begin, aligned);
  const AlignedText result = changes ? normalized(std::move(source)) : std::move(source);
  if (work.out.trace != nullptr) {
    work.out.trace->normalized.push_back({{begin, begin + text.size()}, result.text});
  }
  if (!changes) {
    encode_normalized(result, begin == 0, plain, work);
    return;
  }
  encode_normalized(result, begin == 0, plain.empty() ? plain : made_of(result, begin, plain), work);
}

// The first word, where steps treat the start of a text, takes the long way; the others are mostly
// remembered.
void Tokenizer::encode_words(std::string_view text, size_t begin, Work& work) const {
  const size_t first = cuts_.next(text, 0);
  encode_whole(text.substr(0, first), begin, {}, work);
  encode_following_words(text.substr(first), work);
}

void Tokenizer::encode_following_words(std::string_view text, Work& work) const {
  std::vector<TokenId>& ids = work.out.ids;
  for (size_t at = 0; at < text.size();) {
    const size_t end = cuts_.next(text, at);
    const Word word(text.substr(at, end - at), text.size() - at);
    at = end;
    const size_t before = ids.size();
    if (work.scratch.words.append(word, ids)) {
      if (!has_memory_ || go_on(before, work)) continue;
      encode_rest(word.bytes, work);
    } else {
      const TokenId limit = encode_rest(word.bytes, work);
      if (has_memory_ && limit == kNoToken) continue;
      if (has_memory_) ids.push_back(limit);
      work.scratch.words.store(word, {ids.data() + before, ids.size() - before});
      if (has_memory_) ids.pop_back();
    }
  }
}

// The ids from `before` on were remembered; false if they do not hold here, and then they are gone.
bool Tokenizer::go_on(size_t before, Work& work) const {
  std::vector<TokenId>& ids = work.out.ids;
  const TokenId limit = ids.back();
  ids.pop_back();
  if (model_->go_on({ids.data() + before, ids.size() - before}, limit, work.scratch)) return true;
  ids.resize(before);
  return false;
}

// A word that does not start the text. What Model::encode_next gives, if the model has memory.
TokenId Tokenizer::encode_rest(std::string_view word, Work& work) const {
  const Pieces pieces = pieces_of_rest(word);
  TokenId limit = std::bit_cast<TokenId>(std::numeric_limits<float>::infinity());
  for (const Span& part : pieces.parts) {
    const std::string_view piece =
        std::string_view(pieces.text.text).substr(part.begin, part.end - part.begin);
    if (has_memory_) {
      limit = model_->encode_next(piece, work.scratch, work.out.ids);
    } else {
      model_->encode_piece(piece, work.scratch, work.out.ids, nullptr);
    }
  }
  return limit;
}

void Tokenizer::encode_normalized(const AlignedText& text, bool at_start, const std::vector<Span>& plain,
                                  Work& work) const {
  const std::string_view bytes = text.text;
  const auto gap = [&](size_t begin, size_t end) {
    if (!text.aligned && scanner_only_) {
      encode_plain(bytes.substr(begin, end - begin), work);
      return;
    }
    AlignedTextWriter writer(text);
    writer.copy({begin, end});
    encode_parts(writer.finish(), at_start && begin == 0, work);
  };
  const auto token = [&](const AddedTokenMatch& match) {
    add_token(*match.token,
              work.out.with_offsets ? text.origin({match.begin, match.end}) : Span{match.begin, match.end},
              work);
  };
  walk_matches(bytes, normalized_.find_all(bytes, work.options.matched, plain, work.options.guarded), gap,
               token);
}

void Tokenizer::encode_plain(std::string_view text, Work& work) const {
  if (work.out.most_ids == SIZE_MAX) {
    model_->encode_text(pretokenizer_.scanner, text, work.scratch, work.out.ids);
    return;
  }
  // What is read too much is a part of this size.
  constexpr size_t kPart = 1 << 14;
  for (const std::string_view part : split_safely(pretokenizer_.scanner, text, kPart)) {
    if (work.out.full()) return;
    model_->encode_text(pretokenizer_.scanner, part, work.scratch, work.out.ids);
  }
}

Pieces Tokenizer::pieces_of_rest(std::string_view text) const {
  AlignedText normal = AlignedText::of(text, 0, false);
  for (const NormalizerStep& step : normalizers_) {
    if (step->may_change(normal.text)) normal = step->apply_to_rest(normal);
  }
  return normal.text.empty() ? Pieces{} : pieces_of(std::move(normal), false);
}

// Added tokens in normalized text, and scanners, go by more than words.
WordCuts Tokenizer::word_cuts() const {
  const bool local = pretokenizer_.scanner == nullptr && normalized_.empty() &&
                     std::all_of(normalizers_.begin(), normalizers_.end(),
                                 [](const NormalizerStep& step) { return step->is_local(); }) &&
                     std::all_of(pretokenizer_.steps.begin(), pretokenizer_.steps.end(),
                                 [](const PretokenizerStepPointer& step) { return step->is_local(); });
  if (!local) return {};
  const auto pieces_of = [this](std::string_view text) {
    const Pieces pieces = pieces_of_rest(text);
    std::vector<std::string> found;
    for (const Span& part : pieces.parts)
      found.push_back(pieces.text.text.substr(part.begin, part.end - part.begin));
    return found;
  };
  return WordCuts(pieces_of, *model_);
}

Pieces Tokenizer::pieces_of(AlignedText text, bool at_start) const {
  Pieces pieces{std::move(text), {}, at_start};
  pieces.parts.push_back({0, pieces.text.text.size()});
  for (const PretokenizerStepPointer& step : pretokenizer_.steps) step->apply(pieces);
  return pieces;
}

void Tokenizer::encode_parts(AlignedText text, bool at_start, Work& work) const {
  if (text.text.empty()) return;
  const Pieces pieces = pieces_of(std::move(text), at_start);
  const std::string_view bytes = pieces.text.text;
  for (const Span& part : pieces.parts) {
    if (work.out.full()) return;
    const std::string_view whole = bytes.substr(part.begin, part.end - part.begin);
    if (pretokenizer_.scanner == nullptr) {
      encode_piece(pieces.text, part, work);
      continue;
    }
    for_each_piece(pretokenizer_.scanner, whole, [&](std::string_view piece) {
      const size_t begin = part.begin + static_cast<size_t>(piece.data() - whole.data());
      encode_piece(pieces.text, {begin, begin + piece.size()}, work);
    });
  }
}

void Tokenizer::encode_piece(const AlignedText& text, Span piece, Work& work) const {
  const std::string_view bytes = std::string_view(text.text).substr(piece.begin, piece.end - piece.begin);
  if (has_memory_ && !work.out.with_offsets) {
    model_->encode_next(bytes, work.scratch, work.out.ids);
    return;
  }
  work.lengths.clear();
  std::vector<size_t>* lengths = work.out.with_offsets ? &work.lengths : nullptr;
  model_->encode_piece(bytes, work.scratch, work.out.ids, lengths);
  if (work.out.trace != nullptr) work.out.trace->pieces.push_back({text.origin(piece), std::string(bytes)});
  size_t at = piece.begin;
  for (const size_t length : work.lengths) {
    work.out.offsets.push_back(text.origin({at, at + length}));
    work.out.pieces.push_back(work.piece);
    at += length;
  }
  ++work.piece;
}

const AddedToken* Tokenizer::find_added(std::string_view text, const TokenFilter& filter) const {
  return all_.find_first(text, filter);
}

}  // namespace pyllm::tokenizers
