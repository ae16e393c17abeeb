#include "byte_pair_encoder.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>

#include "encoder_scratch.h"
#include "hash.h"
#include "longest_match.h"
#include "merge_rules.h"
#include "piece_table.h"
#include "scan/scan.h"
#include "short_merger.h"

namespace pyllm::tokenizers {
namespace {

std::vector<TokenId> mergeable_ids(const BytePairDefinition& definition) {
  std::vector<TokenId> ids;
  for (size_t id = 0; id < definition.tokens.size(); ++id) {
    const bool usable = definition.present[id] && definition.mergeable[id] && !definition.tokens[id].empty();
    if (usable) ids.push_back(static_cast<TokenId>(id));
  }
  return ids;
}

TokenTable table_of(const TokenBytes& tokens, const std::vector<TokenId>& ids) {
  TokenTable table(tokens);
  table.fill(ids);
  return table;
}

// Whether the piece starts with a character of three bytes, perhaps behind a space. Those are one step each
// for the longest match, but two merges.
bool leads_three(std::string_view piece) {
  const auto leads = [&](size_t at) { return (static_cast<unsigned char>(piece[at]) & 0xF0) == 0xE0; };
  return leads(0) || (piece.size() > 1 && leads(1));
}

std::vector<MergeRule> rules_of(const BytePairDefinition& definition, const TokenBytes& tokens) {
  if (definition.ranked_by_id) {
    const std::vector<TokenId> ids = mergeable_ids(definition);
    return rules_of_ranked_tokens(tokens, table_of(tokens, ids), ids);
  }
  return checked_rules(definition.merges, tokens);
}

}  // namespace

BytePairEncoder::BytePairEncoder(const BytePairDefinition& definition)
    : tokens_(definition.tokens, definition.present),
      rules_(rules_of(definition, tokens_)),
      merges_(rules_),
      whole_pieces_(std::make_unique<PieceTable>(tokens_)) {
  const std::vector<TokenId> ids = mergeable_ids(definition);
  find_byte_tokens(table_of(tokens_, ids), definition.ranked_by_id);
  longest_match_ = LongestMatchEncoder::prove(tokens_, byte_tokens_, rules_, merges_);
  const std::vector<MergeRule> used =
      longest_match_ != nullptr ? longest_match_->used_rules(merges_) : rules_;
  const bool ranks_fit = std::all_of(
      used.begin(), used.end(), [](const MergeRule& rule) { return rule.rank < ShortMerger::kMostRanks; });
  if (ranks_fit) short_merger_ = std::make_unique<ShortMerger>(used);
  const bool whole_piece_first = definition.ranked_by_id || definition.ignore_merges;
  whole_pieces_->fill(tokens_, whole_piece_first ? ids : reachable(ids));
}

BytePairEncoder::~BytePairEncoder() = default;

void BytePairEncoder::find_byte_tokens(const TokenTable& table, bool all_required) {
  for (size_t byte = 0; byte < byte_tokens_.size(); ++byte) {
    const char text = static_cast<char>(byte);
    byte_tokens_[byte] = table.find(std::string_view(&text, 1));
    if (all_required && byte_tokens_[byte] == kNoToken) {
      throw std::invalid_argument("tokens: byte " + std::to_string(byte) + " has no token");
    }
  }
}

// The tokens that merging their own bytes gives; the others may only stand for a whole piece, and only if the
// definition ignores merges (588 tokens of Llama 3 are such).
std::vector<TokenId> BytePairEncoder::reachable(const std::vector<TokenId>& ids) const {
  std::vector<TokenId> result;
  if (longest_match_ != nullptr) {
    std::copy_if(ids.begin(), ids.end(), std::back_inserter(result),
                 [&](TokenId id) { return longest_match_->reachable(id); });
    return result;
  }
  EncoderScratch scratch;
  for (const TokenId id : ids) {
    merge_piece(tokens_[id], scratch);
    if (scratch.symbols.size() == 1 && scratch.symbols[0] == id) result.push_back(id);
  }
  return result;
}

void BytePairEncoder::merge_piece(std::string_view piece, EncoderScratch& scratch) const {
  std::vector<TokenId>& symbols = scratch.symbols;
  symbols.clear();
  const bool is_short = short_merger_ != nullptr && piece.size() <= ShortMerger::kMostSymbols &&
                        (longest_match_ == nullptr || !leads_three(piece));
  if (!is_short && longest_match_ != nullptr &&
      longest_match_->encode(piece, scratch.longest_match, symbols)) {
    return;
  }
  for (const char c : piece) {
    const TokenId id = byte_tokens_[static_cast<unsigned char>(c)];
    if (id != kNoToken) symbols.push_back(id);
  }
  if (is_short) {
    symbols.resize(short_merger_->merge(symbols.data(), symbols.size()));
  } else {
    scratch.merger.merge(merges_, symbols);
  }
}

// Of short pieces that are new, displaced by others, or of many tokens. Writes at most piece.size() numbers;
// the end of the ids.
TokenId* BytePairEncoder::encode_seldom(const PieceKey& key, uint64_t hash, std::string_view piece,
                                        EncoderScratch& scratch, TokenId* out) const {
  if (scratch.short_cache.find(key, hash) != nullptr) return encode_long(hash, piece, scratch, out);
  TokenId* end = out + 1;
  if (const TokenId id = whole_pieces_->find(key, hash); id != kNoToken) {
    *out = id;
  } else {
    merge_piece(piece, scratch);
    end = std::copy(scratch.symbols.begin(), scratch.symbols.end(), out);
    if (scratch.symbols.size() > ShortPieceCache::kMostTokens)
      scratch.cache.store(piece, hash, scratch.symbols);
  }
  scratch.short_cache.store(key, hash, {out, end});
  return end;
}

// Writes at most piece.size() numbers; the end of the ids.
TokenId* BytePairEncoder::encode_long(uint64_t hash, std::string_view piece, EncoderScratch& scratch,
                                      TokenId* out) const {
  if (TokenId* end = scratch.cache.copy(piece, hash, out)) return end;
  const TokenId id = piece.size() > kShortPiece ? whole_pieces_->find_long(piece) : kNoToken;
  if (id != kNoToken) {
    scratch.symbols.assign(1, id);
  } else {
    merge_piece(piece, scratch);
  }
  scratch.cache.store(piece, hash, scratch.symbols);
  return std::copy(scratch.symbols.begin(), scratch.symbols.end(), out);
}

void BytePairEncoder::encode_piece(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& out,
                                   std::vector<size_t>* lengths) const {
  const size_t before = out.size();
  out.resize(before + std::max(piece.size(), ShortPieceCache::kMostTokens));
  TokenId* end = out.data() + before;
  if (piece.size() > kShortPiece) {
    end = encode_long(hash_long(piece), piece, scratch, end);
  } else {
    scratch.short_cache.allocate();
    const PieceKey key = key_of(piece);
    const uint64_t hash = key.hash();
    const auto* known = scratch.short_cache.find_tokens(key, hash);
    end = known != nullptr ? known->copy_to(end) : encode_seldom(key, hash, piece, scratch, end);
  }
  out.resize(static_cast<size_t>(end - out.data()));
  if (lengths != nullptr) append_lengths(piece, out.data() + before, out.size() - before, *lengths);
}

// Bytes without a token belong to the token after them, at the end of the piece to the last one.
void BytePairEncoder::append_lengths(std::string_view piece, const TokenId* ids, size_t count,
                                     std::vector<size_t>& lengths) const {
  size_t at = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t begin = at;
    for (size_t left = tokens_[ids[i]].size(); left > 0; ++at) {
      if (byte_tokens_[static_cast<unsigned char>(piece[at])] != kNoToken) --left;
    }
    lengths.push_back(i + 1 == count ? piece.size() - begin : at - begin);
  }
}

std::vector<MergeStep> BytePairEncoder::merge_steps(std::string_view piece) const {
  std::vector<PieceSymbol> symbols;
  for (size_t at = 0; at < piece.size(); ++at) {
    const TokenId id = byte_tokens_[static_cast<unsigned char>(piece[at])];
    if (id != kNoToken) symbols.push_back({id, {at, at + 1}});
  }
  std::vector<MergeStep> steps;
  append_merge_steps(merges_, std::move(symbols), steps);
  return steps;
}

// Takes a text through the caches, some pieces at a time.
class BytePairEncoder::Batch {
 public:
  Batch(const BytePairEncoder& encoder, std::string_view text, EncoderScratch& scratch,
        std::vector<TokenId>& out)
      : encoder_(encoder), text_(text), scratch_(scratch), pieces_(scratch.batch), out_(out) {
    scratch.short_cache.allocate();
  }

  // From `begin`, as many pieces as fit; where they end.
  size_t encode(ScanPieces scan, NextPiece next_piece, size_t begin) {
    const size_t count = scan(text_, begin, next_piece, pieces_.ends, PieceBatch::kMostPieces);
    look_ahead(begin, count);
    // No piece has more tokens than bytes.
    const size_t before = out_.size();
    out_.resize(before + pieces_.ends[count - 1] - begin + ShortPieceCache::kMostTokens);
    TokenId* end = out_.data() + before;
    bool all_known = true;
    for (size_t i = 0; i < count; ++i) {
      const PieceKey& key = pieces_.keys[i];
      const auto* known = key.none() ? nullptr : scratch_.short_cache.find_tokens(key, pieces_.hashes[i]);
      if (known != nullptr) [[likely]] {
        end = known->copy_to(end);
        continue;
      }
      const size_t start = i == 0 ? begin : pieces_.ends[i - 1];
      const std::string_view piece(text_.data() + start, pieces_.ends[i] - start);
      if (key.none()) {
        end = encoder_.encode_long(pieces_.hashes[i], piece, scratch_, end);
        continue;
      }
      if (all_known) look_further_ahead(i + 1, count);
      all_known = false;
      end = encoder_.encode_seldom(key, pieces_.hashes[i], piece, scratch_, end);
    }
    begin = pieces_.ends[count - 1];
    out_.resize(static_cast<size_t>(end - out_.data()));
    return begin;
  }

 private:
  static_assert(PieceBatch::kMostPieces >= kScanCapacity);

  // Keys of the short pieces, hashes of all, and a request for their cache lines.
  void look_ahead(size_t begin, size_t count) {
    const bool readable = pieces_.ends[count - 1] + sizeof(PieceKey) <= text_.size();
    for (size_t i = 0; i < count; ++i) {
      const std::string_view piece(text_.data() + begin, pieces_.ends[i] - begin);
      PieceKey& key = pieces_.keys[i];
      uint64_t& hash = pieces_.hashes[i];
      if (piece.size() > kShortPiece) [[unlikely]] {
        key = {};
        hash = hash_long(piece);
        scratch_.cache.prefetch(hash);
      } else {
        key = readable ? load_key(piece.data(), piece.size()) : key_of(piece);
        hash = key.hash();
        scratch_.short_cache.prefetch(hash);
      }
      begin = pieces_.ends[i];
    }
  }

  // Where one piece is new others are: a request for their places in the table of tokens.
  void look_further_ahead(size_t i, size_t count) {
    for (; i < count; ++i) {
      const bool is_new =
          !pieces_.keys[i].none() && scratch_.short_cache.find(pieces_.keys[i], pieces_.hashes[i]) == nullptr;
      if (is_new) encoder_.whole_pieces_->prefetch(pieces_.hashes[i]);
    }
  }

  const BytePairEncoder& encoder_;
  std::string_view text_;
  EncoderScratch& scratch_;
  PieceBatch& pieces_;
  std::vector<TokenId>& out_;
};

void BytePairEncoder::encode_text(NextPiece next_piece, std::string_view text, EncoderScratch& scratch,
                                  std::vector<TokenId>& out) const {
  // English has more than four bytes a token; where it is less, and in short texts, the vector grows.
  constexpr size_t kLongText = 1 << 12;
  if (text.size() >= kLongText) out.reserve(out.size() + text.size() / 4 + ShortPieceCache::kMostTokens);
  const ScanPieces scan = find_scan(next_piece);
  Batch batch(*this, text, scratch, out);
  for (size_t at = 0; at < text.size();) at = batch.encode(scan, next_piece, at);
}

}  // namespace pyllm::tokenizers
