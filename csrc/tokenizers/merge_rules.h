// Lists of merges: checked, or derived from a vocabulary.
#pragma once

#include <vector>

#include "merge_table.h"

namespace pyllm::tokenizers {

// The rules, if each joins two tokens to a third. Throws std::invalid_argument.
std::vector<MergeRule> checked_rules(const std::vector<MergeRule>& rules, const TokenBytes& tokens);

// The rules of a vocabulary that has no merge list: every way to cut a token of `ids` into two tokens of the
// table, ranked by the id of the whole.
std::vector<MergeRule> rules_of_ranked_tokens(const TokenBytes& tokens, const TokenTable& table,
                                              const std::vector<TokenId>& ids);

}  // namespace pyllm::tokenizers
