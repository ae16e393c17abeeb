#include "joined_characters.h"

#include <bit>

#include "huge_array.h"
#include "utf8.h"

namespace pyllm::tokenizers {

// Where a token has the two side by side, some merge has put them there.
JoinedCharacters::JoinedCharacters(const MergeTable& merges, const TokenBytes& tokens) {
  const std::vector<MergeRule> rules = merges.rules();
  HugeArray<uint64_t> bits(std::bit_ceil(rules.size() / 4 + 1));
  for (const MergeRule& rule : rules) {
    const std::string_view left = tokens[rule.left], right = tokens[rule.right];
    if (left.empty() || right.empty()) continue;
    const uint32_t before = decode_utf8(left, previous_utf8(left, left.size())).code_point;
    const uint64_t hash = hash_of(before, decode_utf8(right, 0).code_point);
    bits[hash >> 6 & (bits.size() - 1)] |= uint64_t{1} << (hash & 63);
  }
  bits_ = FrozenArray<uint64_t>(std::move(bits));
}

JoinedCharacters::JoinedCharacters(const SectionReader& file, const std::string& name)
    : bits_(file.array<uint64_t>(name)) {
  if (!std::has_single_bit(bits_.size())) file.fail(name, "expected a power of two of words");
}

}  // namespace pyllm::tokenizers
