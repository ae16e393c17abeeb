#include "text_pattern.h"

#include <stdexcept>
#include <utility>

#include "regular_expression.h"
#include "utf8.h"

namespace pyllm::tokenizers {
namespace {

class Literal final : public TextPattern {
 public:
  explicit Literal(std::string literal) : literal_(std::move(literal)) {
    if (literal_.empty()) throw std::invalid_argument("pattern: the string is empty");
  }

  void find_all(std::string_view text, std::vector<Span>& matches) const override {
    for (size_t at = text.find(literal_); at != std::string_view::npos; at = text.find(literal_, at)) {
      matches.push_back({at, at + literal_.size()});
      at += literal_.size();
    }
  }
  bool is_local() const override { return literal_.size() == decode_utf8(literal_, 0).length; }

 private:
  std::string literal_;
};

class CharacterPattern final : public TextPattern {
 public:
  explicit CharacterPattern(std::function<bool(uint32_t)> predicate) : predicate_(std::move(predicate)) {}

  void find_all(std::string_view text, std::vector<Span>& matches) const override {
    for (size_t at = 0; at < text.size();) {
      const Utf8Character character = decode_utf8(text, at);
      if (predicate_(character.code_point)) matches.push_back({at, at + character.length});
      at += character.length;
    }
  }
  bool is_local() const override { return true; }

 private:
  std::function<bool(uint32_t)> predicate_;
};

class Expression final : public TextPattern {
 public:
  explicit Expression(std::string_view expression)
      : expression_(expression), finds_spaces_(expression == " {2,}" || expression == " +") {}

  void find_all(std::string_view text, std::vector<Span>& matches) const override {
    expression_.find_all(text, matches);
  }
  bool is_local() const override { return finds_spaces_; }

 private:
  RegularExpression expression_;
  bool finds_spaces_;  // whole runs of them and nothing else
};

}  // namespace

TextPatternPointer make_literal(std::string literal) { return std::make_unique<Literal>(std::move(literal)); }

TextPatternPointer make_character_pattern(std::function<bool(uint32_t)> predicate) {
  return std::make_unique<CharacterPattern>(std::move(predicate));
}

TextPatternPointer make_expression(std::string_view expression) {
  return std::make_unique<Expression>(expression);
}

}  // namespace pyllm::tokenizers
