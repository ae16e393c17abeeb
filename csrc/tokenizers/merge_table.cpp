#include "merge_table.h"

namespace pyllm::tokenizers {

std::vector<MergeRule> rules_of_ranked_tokens(const TokenBytes& tokens, const TokenTable& table,
                                              const std::vector<TokenId>& ids) {
  std::vector<MergeRule> rules;
  for (const TokenId id : ids) {
    const std::string_view bytes = tokens[id];
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      const TokenId left = table.find(bytes.substr(0, cut));
      if (left == kNoToken) continue;
      const TokenId right = table.find(bytes.substr(cut));
      if (right != kNoToken) rules.push_back({left, right, id, id});
    }
  }
  return rules;
}

}  // namespace pyllm::tokenizers
