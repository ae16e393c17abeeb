// How merging makes each token, and whether two tokens stay apart.
//
//   preferred = prefer + red      time 9: its merge is the ninth that any text can use
//   prefer    = pre + fer         time 5
//   red       = re + d            time 3
//
// Two tokens stay apart if their bytes, encoded alone, give the two tokens again. That is found by running
// both tokens' merges backwards: of the last symbol of the one and the first symbol of the other, the one
// that was merged later is taken apart; at each step a merge of the two would have to come before either is
// merged away.
//
//   [prefer|red]   prefer <- pre fer     fer|red   fer <- f er    er|red    red <- re d    er|re    ...
//
// This needs one order of merges for all texts (merge_order.h), in which each comes after those that make its
// parts. Rules whose parts never stand side by side do not matter.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "hash.h"
#include "huge_array.h"
#include "merge_table.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

class MergeOrder;

class TokenParts {
 public:
  // Nothing where the order of the merges is not proven. `byte_tokens` are the symbols that merging starts
  // from; rules are sorted by rank, and `merges` holds the same.
  static std::optional<TokenParts> prove(const TokenBytes& tokens,
                                         const std::array<TokenId, 256>& byte_tokens,
                                         const std::vector<MergeRule>& rules, const MergeTable& merges);

  // Whether merging the token's own bytes gives it.
  bool reachable(TokenId id) const { return parts_[id].length != 0; }

  // In bytes; 0 for tokens that are not reachable.
  uint32_t length(TokenId id) const { return parts_[id].length; }

  // Place of the merge that makes the token in the order of merges, counted from 1; 0 for bytes.
  uint32_t time(TokenId id) const { return parts_[id].time; }
  TokenId left(TokenId id) const { return parts_[id].left; }

  // The rules that make tokens, with their ranks; no text uses another one.
  std::vector<MergeRule> used_rules(const MergeTable& merges) const;

  // Of two tokens that are reachable.
  bool stay_apart(TokenId left, TokenId right) const {
    return find(left, right) == kNoToken && !cross(left, right);
  }

 private:
  struct Parts {
    TokenId left = kNoToken, right = kNoToken;
    uint32_t time = 0;    // 0 for a byte
    uint32_t length = 0;  // in bytes; 0: merging does not make it
  };

  TokenParts(const TokenBytes& tokens, const std::array<TokenId, 256>& byte_tokens);

  // Makes tokens by the rules in their order; returns those that come before their parts and yet can be used.
  std::vector<MergeRule> learn(const TokenBytes& tokens, const MergeOrder& order);
  void make(const MergeRule& rule, uint32_t time, size_t length);
  bool usable(const MergeRule& rule) const { return reachable(rule.left) && reachable(rule.right); }
  bool cross(TokenId left, TokenId right) const;

  // The token that the two are merged to, kNoToken if no text merges them. Most pairs are none, which a bit
  // of a small table tells.
  TokenId find(TokenId left, TokenId right) const {
    const uint64_t hash = mix(uint64_t{left} << 32 | right);
    if ((filter_[hash >> 6 & filter_mask_] >> (hash & 63) & 1) == 0) return kNoToken;
    for (size_t at = hash >> 32 & mask_;; at = (at + 1) & mask_) {
      const TokenId merged = slots_[at];
      if (merged == kNoToken || (parts_[merged].left == left && parts_[merged].right == right)) return merged;
    }
  }

  HugeArray<Parts> parts_;
  HugeArray<TokenId> slots_;    // by hash of the two parts
  HugeArray<uint64_t> filter_;  // a bit for every pair's hash
  uint64_t mask_, filter_mask_;
};

}  // namespace pyllm::tokenizers
