#include "trainer.h"

#include <algorithm>
#include <iterator>
#include <queue>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "pair_table.h"

namespace pyllm::tokenizers {
namespace {

constexpr size_t kProgressInterval = 256;
// Places of one pair lie far apart: their slots are asked for that many places ahead.
constexpr size_t kLookAhead = 16;

struct Candidate {
  int64_t count;
  uint64_t tie;  // the smaller goes first
  uint32_t pair;

  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : tie > other.tie;
  }
};

// The different tokens on one side of a token, with sums over the places where they stand there.
class Neighbours {
 public:
  struct Sum {
    TokenId token;
    uint32_t pair = PairTable::kNone;
    uint32_t places = 0;
    int64_t count = 0;
  };

  // Ids are below that number.
  void resize(size_t tokens) { index_.resize(tokens, kNone); }

  void add(TokenId token, int64_t count) {
    if (index_[token] == kNone) {
      index_[token] = static_cast<uint32_t>(sums_.size());
      sums_.push_back({token});
    }
    Sum& sum = sums_[index_[token]];
    sum.count += count;
    ++sum.places;
  }

  const Sum& operator[](TokenId token) const { return sums_[index_[token]]; }
  std::vector<Sum>& sums() { return sums_; }

  void clear() {
    for (const Sum& sum : sums_) index_[sum.token] = kNone;
    sums_.clear();
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  std::vector<uint32_t> index_;
  std::vector<Sum> sums_;
};

// A merged token in the words, and the tokens beside it; kNoToken where its piece ends.
struct Occurrence {
  uint32_t place;
  TokenId left, right;
  int64_t count;
};

class Trainer {
 public:
  Trainer(TrainingWords words, size_t vocab_size, TieBreak rule, MemoryBudget& budget)
      : words_(std::move(words)),
        vocab_size_(vocab_size),
        rule_(rule),
        budget_(budget),
        floor_(find_floor()),
        pairs_(budget) {
    const auto ids = byte_ids(rule);
    tokens_.resize(ids.size());
    for (size_t byte = 0; byte < ids.size(); ++byte) tokens_[ids[byte]] = static_cast<char>(byte);
    for (TokenId id = 0; id < tokens_.size(); ++id) {
      ids_.emplace(tokens_[id], id);
      spelled_.push_back(id);
      lengths_.push_back(1);
    }
    count_byte_pairs();
  }

  TrainedBytePairs run(const TrainingProgress& progress) {
    while (size() < vocab_size_ && !candidates_.empty()) {
      const Candidate best = candidates_.top();
      candidates_.pop();
      const Pair& pair = pairs_[best.pair];
      if (pair.count < floor_ || best.count < pair.count) continue;
      if (best.count > pair.count || best.tie < tie(best.pair)) {
        push(best.pair);
        continue;
      }
      merge_everywhere(best.pair);
      if (merges_.size() % kProgressInterval == 0) progress(size(), vocab_size_);
    }
    progress(size(), vocab_size_);
    return {std::move(tokens_), std::move(merges_)};
  }

 private:
  bool reuses_ids() const { return rule_ == TieBreak::hf; }

  // Ids that the words hold.
  size_t size() const { return lengths_.size(); }

  int64_t find_floor() const {
    std::vector<int64_t> counts = words_.counts();
    const size_t wanted = vocab_size_ - 256;
    if (wanted == 0 || counts.size() < wanted) return 1;
    const auto least = counts.begin() + static_cast<ptrdiff_t>(wanted - 1);
    std::nth_element(counts.begin(), least, counts.end(), std::greater<>());
    return *least;
  }

  bool stands(const Pair& pair, uint32_t place) const {
    return words_.token(place) == pair.left && words_.token(place + lengths_[pair.left]) == pair.right;
  }

  uint64_t tie(uint32_t index) {
    Pair& pair = pairs_[index];
    if (rule_ != TieBreak::first_seen) return uint64_t{pair.left} << 32 | pair.right;
    while (!stands(pair, pair.places[pair.passed])) ++pair.passed;
    return pair.places[pair.passed];
  }

  void push(uint32_t index) { candidates_.push({pairs_[index].count, tie(index), index}); }

  void count_byte_pairs() {
    struct Sum {
      int64_t count = 0;
      uint32_t places = 0;
      uint32_t pair = PairTable::kNone;
    };
    std::vector<Sum> sums(256 * 256);
    const auto sum_at = [&](uint32_t place) -> Sum& {
      return sums[words_.token(place) * 256 + words_.token(place + 1)];
    };
    words_.for_each_byte_pair([&](uint32_t place) {
      Sum& sum = sum_at(place);
      sum.count += words_.count(place);
      ++sum.places;
    });
    for (TokenId left = 0; left < 256; ++left) {
      for (TokenId right = 0; right < 256; ++right) {
        Sum& sum = sums[left * 256 + right];
        if (sum.places > 0) sum.pair = open(left, right, sum.count, sum.places);
      }
    }
    words_.for_each_byte_pair([&](uint32_t place) {
      const uint32_t pair = sum_at(place).pair;
      if (pair != PairTable::kNone) pairs_[pair].places.push_back(place);
    });
    for (const Sum& sum : sums) {
      if (sum.pair != PairTable::kNone) push(sum.pair);
    }
  }

  // The pair with its count, ready to take its places; kNone if it is too rare ever to be merged.
  uint32_t open(TokenId left, TokenId right, int64_t count, uint32_t places) {
    const uint32_t index = count >= floor_ ? pairs_.find_or_add(left, right) : pairs_.find(left, right);
    if (index == PairTable::kNone) return index;
    Pair& pair = pairs_[index];
    pair.count = count;
    forget_places(pair);
    if (count < floor_) return PairTable::kNone;
    budget_.take(places * sizeof(uint32_t), "the places of pairs");
    pair.places.reserve(places);
    return index;
  }

  void forget_places(Pair& pair) {
    budget_.give_back(pair.places.capacity() * sizeof(uint32_t));
    std::vector<uint32_t>().swap(pair.places);
    pair.passed = 0;
  }

  void lower(uint32_t index, int64_t count) {
    if (index == PairTable::kNone) return;
    Pair& pair = pairs_[index];
    pair.count -= count;
    if (pair.count < floor_) forget_places(pair);
  }

  // Records the merge; the id that the words get for it.
  TokenId merged_id(TokenId left, TokenId right) {
    std::string bytes = tokens_[spelled_[left]] + tokens_[spelled_[right]];
    const auto [found, is_new] = ids_.try_emplace(bytes, static_cast<TokenId>(tokens_.size()));
    const TokenId spelled = found->second;
    merges_.push_back({spelled_[left], spelled_[right], spelled});
    if (reuses_ids() && !is_new) return spelled;
    lengths_.push_back(static_cast<uint32_t>(bytes.size()));
    spelled_.push_back(spelled);
    if (is_new) tokens_.push_back(std::move(bytes));
    return static_cast<TokenId>(lengths_.size()) - 1;
  }

  void merge_everywhere(uint32_t index) {
    const size_t before = size();
    const TokenId left = pairs_[index].left, right = pairs_[index].right;
    const TokenId merged = merged_id(left, right);
    left_.resize(size());
    right_.resize(size());
    merge_places(pairs_[index], merged);
    for (const auto& sum : left_.sums()) lower(pairs_.find(sum.token, left), sum.count);
    for (const auto& sum : right_.sums()) lower(pairs_.find(right, sum.token), sum.count);
    pairs_[index].count = 0;
    forget_places(pairs_[index]);
    left_.clear();
    right_.clear();
    if (size() == before) find_everywhere(merged);
    count_around(merged);
  }

  // Merges the pair, from left to right so that of overlapping ones (a a a) the first is merged, and sums up
  // what its neighbours lose. Leaves in `found_` where it was.
  void merge_places(const Pair& pair, TokenId merged) {
    const uint32_t left = lengths_[pair.left], right = lengths_[pair.right];
    found_.clear();
    uint32_t last_end = 0;
    for (size_t i = 0; i < pair.places.size(); ++i) {
      if (i + kLookAhead < pair.places.size()) words_.prefetch(pair.places[i + kLookAhead]);
      const uint32_t begin = pair.places[i], end = begin + left + right;
      if (!stands(pair, begin)) continue;
      Occurrence found{begin, token_before(begin), token_at(end), words_.count(begin)};
      if (found.right != kNoToken) right_.add(found.right, found.count);
      if (begin == last_end) {
        // The token before was merged just now: no pair with it has been counted yet.
        found_.back().right = merged;
      } else if (found.left != kNoToken) {
        left_.add(found.left, found.count);
      }
      words_.merge(begin, left, right, merged);
      found_.push_back(found);
      last_end = end;
    }
  }

  // For a token that is merged from other parts for the second time.
  void find_everywhere(TokenId token) {
    found_.clear();
    for (const uint32_t place : words_.places_of(token, lengths_[token])) {
      found_.push_back({place, token_before(place), token_at(place + lengths_[token]), words_.count(place)});
    }
  }

  TokenId token_at(uint32_t slot) const { return words_.is_header(slot) ? kNoToken : words_.token(slot); }
  TokenId token_before(uint32_t place) const { return token_at(place - 1); }

  // Counts the pairs of a token, which is where `found_` says, with its neighbours from nothing.
  void count_around(TokenId token) {
    for (const Occurrence& found : found_) {
      // A token beside itself is counted as a right neighbour only.
      if (found.left != kNoToken && found.left != token) left_.add(found.left, found.count);
      if (found.right != kNoToken) right_.add(found.right, found.count);
    }
    bool opened = false;
    for (auto& sum : left_.sums()) {
      sum.pair = open(sum.token, token, sum.count, sum.places);
      opened |= sum.pair != PairTable::kNone;
    }
    for (auto& sum : right_.sums()) {
      sum.pair = open(token, sum.token, sum.count, sum.places);
      opened |= sum.pair != PairTable::kNone;
    }
    if (opened) {
      const auto put = [&](uint32_t pair, uint32_t place) {
        if (pair != PairTable::kNone) pairs_[pair].places.push_back(place);
      };
      for (const Occurrence& found : found_) {
        if (found.left != kNoToken && found.left != token) {
          put(left_[found.left].pair, found.place - lengths_[found.left]);
        }
        if (found.right != kNoToken) put(right_[found.right].pair, found.place);
      }
      for (Neighbours* side : {&left_, &right_}) {
        for (const auto& sum : side->sums()) {
          if (sum.pair != PairTable::kNone) push(sum.pair);
        }
      }
    }
    left_.clear();
    right_.clear();
  }

  TrainingWords words_;
  size_t vocab_size_;
  TieBreak rule_;
  MemoryBudget& budget_;
  int64_t floor_;
  std::vector<std::string> tokens_;               // different strings
  std::unordered_map<std::string, TokenId> ids_;  // in tokens_
  std::vector<TokenId> spelled_;                  // in tokens_, by the id that the words hold
  std::vector<uint32_t> lengths_;                 // by the id that the words hold
  std::vector<TrainedMerge> merges_;
  PairTable pairs_;
  Neighbours left_, right_;
  std::vector<Occurrence> found_;
  std::priority_queue<Candidate> candidates_;
};

}  // namespace

TrainedBytePairs train_byte_pairs(TrainingWords words, size_t vocab_size, TieBreak rule, MemoryBudget& budget,
                                  const TrainingProgress& progress) {
  if (vocab_size < 256 || vocab_size > TrainingWords::kMostTokens) {
    throw std::invalid_argument("vocab_size: expected 256 (the bytes) to " +
                                std::to_string(TrainingWords::kMostTokens) + ", got " +
                                std::to_string(vocab_size));
  }
  return Trainer(std::move(words), vocab_size, rule, budget).run(progress);
}

}  // namespace pyllm::tokenizers
