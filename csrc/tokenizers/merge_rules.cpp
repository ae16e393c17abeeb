#include "merge_rules.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace pyllm::tokenizers {
namespace {

bool join(std::string_view left, std::string_view right, std::string_view merged) {
  return left.size() + right.size() == merged.size() && merged.starts_with(left) && merged.ends_with(right);
}

void check_merge(const TokenBytes& tokens, const MergeRule& rule) {
  for (const TokenId id : {rule.left, rule.right, rule.merged}) {
    if (!tokens.contains(id)) {
      throw std::invalid_argument("merges: rank " + std::to_string(rule.rank) + " names id " +
                                  std::to_string(id) + ", which has no token");
    }
  }
  if (!join(tokens[rule.left], tokens[rule.right], tokens[rule.merged])) {
    throw std::invalid_argument("merges: the two parts of rank " + std::to_string(rule.rank) +
                                " do not join to its token, id " + std::to_string(rule.merged));
  }
}

// exists[n]: some token has n bytes.
std::vector<bool> lengths_of(const TokenBytes& tokens) {
  std::vector<bool> exists(1);
  for (TokenId id = 0; id < tokens.size(); ++id) {
    if (!tokens.contains(id)) continue;
    const size_t length = tokens.length(id);
    if (length >= exists.size()) exists.resize(length + 1);
    exists[length] = true;
  }
  return exists;
}

// Cuts of tokens, many of which are looked up at once.
class Cuts {
 public:
  explicit Cuts(const TokenTable& table) : table_(table) {}

  void add(TokenId id, std::string_view left, std::string_view right) {
    merged_.push_back(id);
    lefts_.push_back(left);
    rights_.push_back(right);
    if (merged_.size() == kMany) flush();
  }

  std::vector<MergeRule> finish() {
    flush();
    return std::move(rules_);
  }

 private:
  static constexpr size_t kMany = 1 << 12;

  // Right parts are only sought beside left parts that are tokens.
  void flush() {
    left_ids_.resize(lefts_.size());
    table_.find_all(lefts_, left_ids_);
    size_t kept = 0;
    for (size_t i = 0; i < lefts_.size(); ++i) {
      if (left_ids_[i] == kNoToken) continue;
      left_ids_[kept] = left_ids_[i];
      rights_[kept] = rights_[i];
      merged_[kept++] = merged_[i];
    }
    rights_.resize(kept);
    right_ids_.resize(kept);
    table_.find_all(rights_, right_ids_);
    for (size_t i = 0; i < kept; ++i) {
      if (right_ids_[i] != kNoToken) rules_.push_back({left_ids_[i], right_ids_[i], merged_[i], merged_[i]});
    }
    merged_.clear();
    lefts_.clear();
    rights_.clear();
  }

  const TokenTable& table_;
  std::vector<TokenId> merged_, left_ids_, right_ids_;
  std::vector<std::string_view> lefts_, rights_;
  std::vector<MergeRule> rules_;
};

}  // namespace

std::vector<MergeRule> checked_rules(const std::vector<MergeRule>& rules, const TokenBytes& tokens) {
  for (const MergeRule& rule : rules) check_merge(tokens, rule);
  return rules;
}

std::vector<MergeRule> rules_of_ranked_tokens(const TokenBytes& tokens, const TokenTable& table,
                                              const std::vector<TokenId>& ids) {
  // A look-up reads all of its bytes: only cuts into lengths that exist, or one token of a megabyte takes
  // minutes.
  const std::vector<bool> exists = lengths_of(tokens);
  Cuts cuts(table);
  for (const TokenId id : ids) {
    const std::string_view bytes = tokens[id];
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      if (exists[cut] && exists[bytes.size() - cut]) cuts.add(id, bytes.substr(0, cut), bytes.substr(cut));
    }
  }
  return cuts.finish();
}

}  // namespace pyllm::tokenizers
