#include "spellings.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <unordered_map>

#include "byte_alphabet.h"

namespace pyllm::tokenizers {
namespace {

std::vector<TokenId> descending(size_t count) {
  std::vector<TokenId> entries(count);
  std::iota(entries.rbegin(), entries.rend(), TokenId{0});
  return entries;
}

std::string quoted(std::string_view text) {
  return std::string(1, '\'').append(text.substr(0, 100)).append(1, '\'');
}

}  // namespace

// Filled from the end: the first of equal ones stays in a table.
Spellings::Spellings(TokenBytes entries, std::vector<TokenId> ids)
    : entries_(std::move(entries)),
      ids_(std::move(ids)),
      table_(entries_),
      doubles_(table_.fill(descending(entries_.size()))) {}

std::vector<TokenId> Spellings::entries_by_id() const {
  std::vector<TokenId> by_id;
  by_id.reserve(size());
  for (TokenId entry = 0; entry < size(); ++entry) {
    if (has_doubles() && !ids_.empty() && find((*this)[entry]) != entry) continue;
    if (by_id.size() <= id(entry)) by_id.resize(id(entry) + 1, kNoToken);
    if (by_id[id(entry)] != kNoToken) {
      throw std::invalid_argument("id " + std::to_string(id(entry)) + " stands for two tokens");
    }
    by_id[id(entry)] = entry;
  }
  return by_id;
}

TokenBytes Spellings::tokens(bool byte_level,
                             const std::vector<std::pair<TokenId, std::string>>& added) const {
  std::vector<TokenId> by_id = entries_by_id();
  std::vector<bool> verbatim(size(), !byte_level);
  std::unordered_map<TokenId, std::string_view> outside;
  for (const auto& [id, content] : added) {
    if (const TokenId entry = find(content); entry != kNoToken) verbatim[entry] = true;
    if (by_id.size() <= id) by_id.resize(id + 1, kNoToken);
    const TokenId entry = by_id[id];
    const std::string_view there =
        entry != kNoToken ? (*this)[entry] : outside.try_emplace(id, content).first->second;
    if (there != content) {
      throw std::invalid_argument("id " + std::to_string(id) + " of the added token '" + content +
                                  "' stands for another token too");
    }
    if (entry != kNoToken) verbatim[entry] = true;
  }
  TokenBytesBuilder builder;
  builder.reserve(by_id.size(), by_id.size() * 8);
  for (TokenId id = 0; id < by_id.size(); ++id) {
    const TokenId entry = by_id[id];
    if (entry == kNoToken) {
      const auto found = outside.find(id);
      found == outside.end() ? builder.add_absent() : builder.add(found->second);
    } else if (verbatim[entry] || !append_unspelled((*this)[entry], builder.bytes())) {
      builder.add((*this)[entry]);
    } else {
      builder.close(true);
    }
  }
  return builder.finish();
}

void MergeReader::refuse(const std::string& found) const {
  throw std::invalid_argument(what_ + "[" + std::to_string(rows_.size() / 3 + waiting_.size()) +
                              "]: " + found + " does not join two tokens to a third");
}

void MergeReader::add(std::string_view left, std::string_view right) {
  const size_t begin = text_.size();
  text_.append(left).append(right);
  waiting_.push_back({begin, begin + left.size(), text_.size()});
  if (waiting_.size() == kWaiting) look_up();
}

void MergeReader::add(std::string_view both) {
  const size_t space = both.find(' ');
  if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos) {
    look_up();
    refuse(quoted(both));
  }
  add(both.substr(0, space), both.substr(space + 1));
}

std::vector<TokenId> MergeReader::take() {
  look_up();
  return std::move(rows_);
}

// Merges mostly come in the order of their tokens, all ways to make a token together: so it is the last token
// or the one after it that is looked at first.
TokenId MergeReader::find_joined(std::string_view merged) {
  if (!spellings_.has_doubles()) {
    for (const TokenId entry : {last_, last_ + 1}) {
      if (entry < spellings_.size() && spellings_[entry] == merged) return entry;
    }
  }
  return spellings_.find(merged);
}

void MergeReader::look_up() {
  const std::string_view text = text_;
  parts_.clear();
  for (const auto& [begin, cut, end] : waiting_) {
    parts_.push_back(text.substr(begin, cut - begin));
    parts_.push_back(text.substr(cut, end - cut));
  }
  found_.resize(parts_.size());
  spellings_.find_all(parts_, found_);
  const std::vector<Waiting> waiting = std::exchange(waiting_, {});
  for (size_t i = 0; i < waiting.size(); ++i) {
    const TokenId left = found_[2 * i], right = found_[2 * i + 1];
    const TokenId merged = find_joined(text.substr(waiting[i].begin, waiting[i].end - waiting[i].begin));
    if (left == kNoToken || right == kNoToken || merged == kNoToken) {
      refuse(quoted(parts_[2 * i]).append(", ").append(quoted(parts_[2 * i + 1])));
    }
    last_ = merged;
    rows_.insert(rows_.end(), {spellings_.id(left), spellings_.id(right), spellings_.id(merged)});
  }
  text_.clear();
}

}  // namespace pyllm::tokenizers
