#include "merge_rules.h"

#include <stdexcept>
#include <string>

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
  std::vector<MergeRule> rules;
  for (const TokenId id : ids) {
    const std::string_view bytes = tokens[id];
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      if (!exists[cut] || !exists[bytes.size() - cut]) continue;
      const TokenId left = table.find(bytes.substr(0, cut));
      if (left == kNoToken) continue;
      const TokenId right = table.find(bytes.substr(cut));
      if (right != kNoToken) rules.push_back({left, right, id, id});
    }
  }
  return rules;
}

}  // namespace pyllm::tokenizers
