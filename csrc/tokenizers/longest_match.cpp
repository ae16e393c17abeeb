#include "longest_match.h"

#include <utility>

namespace pyllm::tokenizers {

std::unique_ptr<LongestMatchEncoder> LongestMatchEncoder::prove(const TokenBytes& tokens,
                                                                const std::array<TokenId, 256>& byte_tokens,
                                                                const std::vector<MergeRule>& rules,
                                                                const MergeTable& merges) {
  std::optional<TokenParts> parts = TokenParts::prove(tokens, byte_tokens, rules, merges);
  if (!parts.has_value()) return nullptr;
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < tokens.size(); ++id) {
    if (parts->reachable(id)) ids.push_back(id);
  }
  return std::unique_ptr<LongestMatchEncoder>(new LongestMatchEncoder(*std::move(parts), tokens, ids));
}

LongestMatchEncoder::LongestMatchEncoder(TokenParts parts, const TokenBytes& tokens,
                                         const std::vector<TokenId>& reachable)
    : parts_(std::move(parts)), trie_(tokens, reachable) {}

bool LongestMatchEncoder::encode(std::string_view piece, LongestMatchScratch& scratch,
                                 std::vector<TokenId>& out) const {
  const size_t first = out.size();
  scratch.dead.clear();
  const auto dead = [&](size_t at) { return at < scratch.dead.size() && scratch.dead[at]; };
  size_t at = 0;
  for (TokenId token = trie_.longest_at(piece, 0); token != kNoToken;) {
    const size_t end = at + parts_.length(token);
    const bool fits = !dead(end) && (out.size() == first || parts_.stay_apart(out.back(), token));
    if (fits) {
      out.push_back(token);
      at = end;
      if (at == piece.size()) return true;
      token = trie_.longest_at(piece, at);
    } else if (trie_.shorter(token) != kNoToken) {
      token = trie_.shorter(token);
    } else {
      if (scratch.dead.empty()) scratch.dead.resize(piece.size() + 1);
      scratch.dead[at] = true;
      if (out.size() == first) break;
      token = out.back();
      out.pop_back();
      at -= parts_.length(token);
    }
  }
  out.resize(first);
  return false;
}

}  // namespace pyllm::tokenizers
