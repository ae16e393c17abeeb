#include "tokenizer_json.h"

#include <stdexcept>
#include <utility>

namespace pyllm::tokenizers {
namespace {

// Entries of model.vocab as they are read.
struct Entries {
  TokenBytesBuilder spellings;
  std::vector<TokenId> ids;

  std::shared_ptr<const Spellings> finish() {
    return std::make_shared<const Spellings>(spellings.finish(), std::move(ids));
  }
};

// [[spelling, score], ...]
std::shared_ptr<const Spellings> read_scored(JsonReader& reader, std::vector<double>& scores) {
  Entries entries;
  reader.array([&] {
    size_t members = 0;
    reader.array([&] {
      if (members == 0) entries.spellings.add(reader.string());
      if (members == 1) scores.push_back(reader.number());
      if (++members > 2) reader.fail("[token, score]");
    });
    if (members != 2) reader.fail("[token, score]");
    if (scores.size() > kMostIds) reader.fail("fewer tokens");
  });
  return entries.finish();
}

// ["left right", ...] or [["left", "right"], ...]
std::vector<TokenId> read_merges(JsonReader& reader, const Spellings& spellings) {
  MergeReader merges(spellings, "model.merges");
  std::string left, right;
  reader.array([&] {
    if (reader.peek() == '"') return merges.add(reader.string());
    size_t members = 0;
    reader.array([&] { (members++ == 0 ? left : right).assign(reader.string()); });
    if (members != 2) merges.refuse("a list of " + std::to_string(members));
    merges.add(left, right);
  });
  return merges.take();
}

// Reads a document and copies what it does not take.
class DocumentReader {
 public:
  explicit DocumentReader(std::string_view text) : text_(text), reader_(text) {}

  TokenizerJson read() {
    bool found = false;
    reader_.object([&](std::string_view key) {
      if (key != "model") return reader_.skip();
      if (std::exchange(found, true)) reader_.fail("no second model");
      if (reader_.peek() != '{') return reader_.skip();
      reader_.object([&](std::string_view name) { read_member(name); });
    });
    reader_.finish();
    if (merges_at_ != 0 && result_.vocabulary != nullptr && !result_.merges) {
      JsonReader reader(text_, merges_at_);
      result_.merges = read_merges(reader, *result_.vocabulary);
    }
    result_.rest.append(text_.substr(copied_));
    return std::move(result_);
  }

 private:
  void read_member(std::string_view name) {
    const char start = reader_.peek();
    if (name == "vocab" && (start == '{' || start == '[')) {
      if (result_.vocabulary != nullptr) reader_.fail("no second vocab");
      cut([&] { read_vocab(start); });
    } else if (name == "merges" && start == '[') {
      if (merges_at_ != 0) reader_.fail("no second merges");
      merges_at_ = reader_.position();
      cut([&] {
        if (result_.vocabulary == nullptr) return reader_.skip();
        result_.merges = read_merges(reader_, *result_.vocabulary);
      });
    } else {
      reader_.skip();
    }
  }

  void read_vocab(char start) {
    if (start == '{') {
      result_.vocabulary = read_vocabulary(reader_);
    } else {
      result_.vocabulary = read_scored(reader_, result_.scores.emplace());
    }
  }

  // Leaves out what `read` goes over.
  template <typename Read>
  void cut(Read&& read) {
    result_.rest.append(text_.substr(copied_, reader_.position() - copied_)).append("null");
    read();
    copied_ = reader_.position();
  }

  std::string_view text_;
  JsonReader reader_;
  TokenizerJson result_;
  size_t copied_ = 0;
  size_t merges_at_ = 0;  // 0: no list of merges so far
};

}  // namespace

std::shared_ptr<const Spellings> read_vocabulary(JsonReader& reader) {
  Entries entries;
  reader.object([&](std::string_view spelling) {
    entries.spellings.add(spelling);
    const int64_t id = reader.integer();
    if (id < 0 || id >= static_cast<int64_t>(kMostIds)) {
      throw std::invalid_argument("model.vocab: expected ids from 0 to " + std::to_string(kMostIds - 1) +
                                  ", got " + std::to_string(id));
    }
    entries.ids.push_back(static_cast<TokenId>(id));
  });
  return entries.finish();
}

TokenizerJson read_tokenizer_json(std::string_view text) { return DocumentReader(text).read(); }

}  // namespace pyllm::tokenizers
