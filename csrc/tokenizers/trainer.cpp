#include "trainer.h"

#include <algorithm>
#include <queue>
#include <stdexcept>
#include <unordered_map>

#include "hash.h"

namespace pyllm::tokenizers {
namespace {

constexpr size_t kProgressInterval = 256;

// Bytes in the order of the characters that GPT-2's byte-level alphabet gives them: printable Latin-1 first.
std::vector<std::string> byte_alphabet() {
  const auto printable = [](int byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
  };
  std::vector<std::string> alphabet;
  for (const bool wanted : {true, false}) {
    for (int byte = 0; byte < 256; ++byte) {
      if (printable(byte) == wanted) alphabet.emplace_back(1, static_cast<char>(byte));
    }
  }
  return alphabet;
}

struct Pair {
  TokenId left, right;
  int64_t count = 0;
  std::vector<uint32_t> positions;  // where it has stood; may be out of date
};

// All pairs ever seen, found by their ids.
class PairTable {
 public:
  PairTable() : slots_(1 << 16, kFree) {}

  Pair& operator[](size_t index) { return pairs_[index]; }
  size_t size() const { return pairs_.size(); }

  size_t find_or_add(TokenId left, TokenId right) {
    if (pairs_.size() * 2 >= slots_.size()) grow();
    uint32_t& slot = slots_[locate(left, right)];
    if (slot == kFree) {
      slot = static_cast<uint32_t>(pairs_.size());
      pairs_.push_back({left, right, 0, {}});
    }
    return slot;
  }

 private:
  static constexpr uint32_t kFree = UINT32_MAX;

  size_t locate(TokenId left, TokenId right) const {
    size_t slot = mix(uint64_t{left} << 32 | right) & (slots_.size() - 1);
    while (slots_[slot] != kFree &&
           (pairs_[slots_[slot]].left != left || pairs_[slots_[slot]].right != right)) {
      slot = (slot + 1) & (slots_.size() - 1);
    }
    return slot;
  }

  void grow() {
    slots_.assign(slots_.size() * 2, kFree);
    for (uint32_t i = 0; i < pairs_.size(); ++i) slots_[locate(pairs_[i].left, pairs_[i].right)] = i;
  }

  std::vector<uint32_t> slots_;
  std::vector<Pair> pairs_;
};

struct Candidate {
  int64_t count;
  TokenId left, right;
  size_t pair;

  // std::priority_queue gives the largest: the highest count, then the smallest ids.
  bool operator<(const Candidate& other) const {
    if (count != other.count) return count < other.count;
    return std::pair(left, right) > std::pair(other.left, other.right);
  }
};

// The pieces as one array with a slot per byte. A token that covers several slots writes its id into the
// first and the last of them, so that both neighbours of a token are found without links.
class Trainer {
 public:
  explicit Trainer(const std::vector<CountedPiece>& pieces) : tokens_(byte_alphabet()) {
    for (TokenId id = 0; id < tokens_.size(); ++id) ids_.emplace(tokens_[id], id);
    lay_out(pieces);
    for (size_t i = 0; i < pairs_.size(); ++i) push(i);
  }

  TrainedBytePairs run(size_t vocab_size, const TrainingProgress& progress) {
    while (tokens_.size() < vocab_size && !candidates_.empty()) {
      const Candidate best = candidates_.top();
      candidates_.pop();
      const int64_t count = pairs_[best.pair].count;
      if (best.count == count) {
        merge_everywhere(best.pair);
        if (merges_.size() % kProgressInterval == 0) progress(tokens_.size(), vocab_size);
      } else if (best.count > count) {
        push(best.pair);
      }
    }
    progress(tokens_.size(), vocab_size);
    return {std::move(tokens_), std::move(merges_)};
  }

 private:
  static constexpr uint32_t kBorder = UINT32_MAX;      // between two pieces
  static constexpr uint32_t kInside = UINT32_MAX - 1;  // neither end of a token

  void lay_out(const std::vector<CountedPiece>& pieces) {
    size_t slots = 1;
    for (const CountedPiece& counted : pieces) {
      if (counted.piece.size() > 1) slots += counted.piece.size() + 1;
    }
    if (slots >= kInside) throw std::invalid_argument("texts: the different pieces hold 2^32 bytes or more");
    symbols_.reserve(slots);
    owners_.reserve(slots);
    put(kBorder);
    for (const CountedPiece& counted : pieces) {
      if (counted.piece.size() < 2) continue;
      counts_.push_back(counted.count);
      for (const char byte : counted.piece) put(ids_.at(std::string(1, byte)));
      put(kBorder);
    }
    for (uint32_t at = 1; at + 1 < symbols_.size(); ++at) {
      if (symbols_[at] != kBorder && symbols_[at + 1] != kBorder) add(symbols_[at], symbols_[at + 1], at);
    }
    touched_.clear();
  }

  void put(uint32_t symbol) {
    symbols_.push_back(symbol);
    owners_.push_back(static_cast<uint32_t>(counts_.size()) - 1);
  }

  uint32_t length(TokenId id) const { return static_cast<uint32_t>(tokens_[id].size()); }

  void add(TokenId left, TokenId right, uint32_t at) {
    const size_t index = pairs_.find_or_add(left, right);
    pairs_[index].count += counts_[owners_[at]];
    pairs_[index].positions.push_back(at);
    touched_.push_back(index);
  }

  void remove(TokenId left, TokenId right, uint32_t at) {
    pairs_[pairs_.find_or_add(left, right)].count -= counts_[owners_[at]];
  }

  void push(size_t index) {
    const Pair& pair = pairs_[index];
    if (pair.count > 0) candidates_.push({pair.count, pair.left, pair.right, index});
  }

  TokenId id_of(std::string bytes) {
    const auto [found, added] = ids_.try_emplace(bytes, static_cast<TokenId>(tokens_.size()));
    if (added) tokens_.push_back(std::move(bytes));
    return found->second;
  }

  void merge_everywhere(size_t index) {
    const TokenId left = pairs_[index].left, right = pairs_[index].right;
    const TokenId merged = id_of(tokens_[left] + tokens_[right]);
    merges_.push_back({left, right, merged});
    std::vector<uint32_t> positions;
    positions.swap(pairs_[index].positions);
    // From left to right, so that of overlapping pairs (a a a) the first is merged.
    if (!std::is_sorted(positions.begin(), positions.end())) std::sort(positions.begin(), positions.end());
    touched_.clear();
    for (const uint32_t at : positions) merge_at(at, left, right, merged);
    std::sort(touched_.begin(), touched_.end());
    touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
    for (const size_t pair : touched_) push(pair);
  }

  void merge_at(uint32_t at, TokenId left, TokenId right, TokenId merged) {
    const uint32_t middle = at + length(left), end = middle + length(right);
    const bool stands = symbols_[at] == left && end < symbols_.size() && symbols_[middle] == right &&
                        symbols_[middle - 1] == left && symbols_[end - 1] == right;
    if (!stands) return;
    const uint32_t before = symbols_[at - 1], after = symbols_[end];
    remove(left, right, at);
    if (before != kBorder) remove(before, left, at);
    if (after != kBorder) remove(right, after, at);
    symbols_[middle - 1] = symbols_[middle] = kInside;
    symbols_[at] = symbols_[end - 1] = merged;
    if (before != kBorder) add(before, merged, at - length(before));
    if (after != kBorder) add(merged, after, at);
  }

  std::vector<std::string> tokens_;
  std::unordered_map<std::string, TokenId> ids_;
  std::vector<TrainedMerge> merges_;
  std::vector<uint32_t> symbols_;
  std::vector<uint32_t> owners_;  // the piece of each slot
  std::vector<int64_t> counts_;   // of each piece
  PairTable pairs_;
  std::vector<size_t> touched_;
  std::priority_queue<Candidate> candidates_;
};

}  // namespace

TrainedBytePairs train_byte_pairs(const std::vector<CountedPiece>& pieces, size_t vocab_size,
                                  const TrainingProgress& progress) {
  if (vocab_size < 256) {
    throw std::invalid_argument("vocab_size: at least the 256 bytes are needed, got " +
                                std::to_string(vocab_size));
  }
  return Trainer(pieces).run(vocab_size, progress);
}

}  // namespace pyllm::tokenizers
