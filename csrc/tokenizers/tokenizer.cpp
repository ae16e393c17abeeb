#include "tokenizer.h"

#include <algorithm>
#include <stdexcept>

#include "normalize.h"

namespace pyllm::tokenizers {
namespace {

std::vector<bool> select(const std::vector<AddedToken>& tokens, bool AddedToken::* flag, bool value) {
  std::vector<bool> selected;
  for (const AddedToken& token : tokens) selected.push_back(token.*flag == value);
  return selected;
}

std::vector<AddedToken> in_normal_form(std::vector<AddedToken> tokens, bool nfc) {
  for (AddedToken& token : tokens) {
    if (nfc) token.content = normalize_nfc(token.content);
  }
  return tokens;
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

// Calls gap(begin, end) and token(id) in the order of the text.
template <typename Gap, typename Token>
void walk_matches(std::string_view text, const std::vector<AddedTokenMatch>& matches, Gap&& gap,
                  Token&& token) {
  size_t at = 0;
  for (const AddedTokenMatch& match : matches) {
    if (at < match.begin) gap(at, match.begin);
    token(match.token->id);
    at = std::max(at, match.end);
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
    scratch_->merger.trim();
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

Tokenizer::Tokenizer(TokenizerDefinition definition)
    : added_(std::move(definition.added_tokens)),
      added_in_normal_form_(in_normal_form(added_, definition.nfc)),
      encoder_(definition.byte_pairs),
      next_piece_(find_pretokenizer(definition.grammar)),
      nfc_(definition.nfc),
      all_(added_, std::vector<bool>(added_.size(), true)),
      raw_(added_, select(added_, &AddedToken::normalized, false)),
      normalized_(added_in_normal_form_, select(added_, &AddedToken::normalized, true)) {
  for (const AddedToken& token : added_) {
    if (!encoder_.tokens().contains(token.id)) {
      throw std::invalid_argument("added_tokens: id " + std::to_string(token.id) + " has no token");
    }
  }
  scratch_.reserve(kKeptScratch);
}

void Tokenizer::encode(std::string_view text, const EncodeOptions& options, std::vector<TokenId>& out) const {
  ScratchLease scratch(*this);
  const auto gap = [&](size_t begin, size_t end) {
    const EncodeOptions inner{options.matched, clip(options.plain, begin, end)};
    encode_between(text.substr(begin, end - begin), inner, *scratch, out);
  };
  walk_matches(text, raw_.find_all(text, options.matched, options.plain), gap,
               [&](TokenId id) { out.push_back(id); });
}

// Positions move under normalization: if the text changes, plain spans cover all of it.
void Tokenizer::encode_between(std::string_view text, const EncodeOptions& options, EncoderScratch& scratch,
                               std::vector<TokenId>& out) const {
  if (!nfc_ || !may_change_under_nfc(text)) {
    encode_normalized(text, options, scratch, out);
    return;
  }
  const std::string normalized = normalize_nfc(text);
  EncodeOptions inner{options.matched, {}};
  if (!options.plain.empty()) inner.plain.push_back({0, normalized.size()});
  encode_normalized(normalized, inner, scratch, out);
}

void Tokenizer::encode_normalized(std::string_view text, const EncodeOptions& options,
                                  EncoderScratch& scratch, std::vector<TokenId>& out) const {
  const auto gap = [&](size_t begin, size_t end) {
    for_each_piece(next_piece_, text.substr(begin, end - begin),
                   [&](std::string_view piece) { encoder_.encode_piece(piece, scratch, out); });
  };
  walk_matches(text, normalized_.find_all(text, options.matched, options.plain), gap,
               [&](TokenId id) { out.push_back(id); });
}

const AddedToken* Tokenizer::find_added(std::string_view text, const TokenFilter& filter) const {
  return all_.find_first(text, filter);
}

void Tokenizer::decode(int64_t id, std::string& out) const {
  if (id < 0 || !encoder_.tokens().contains(static_cast<TokenId>(std::min<int64_t>(id, kNoToken)))) {
    throw std::invalid_argument("ids: " + std::to_string(id) + " has no token (vocab_size is " +
                                std::to_string(encoder_.tokens().size()) + ")");
  }
  out += encoder_.tokens()[static_cast<TokenId>(id)];
}

}  // namespace pyllm::tokenizers
