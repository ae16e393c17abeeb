#include "expression_syntax.h"

#include <map>
#include <stdexcept>
#include <string>

#include "symbol_set.h"
#include "utf8.h"

namespace pyllm::tokenizers {
namespace {

using Kind = ExpressionNode::Kind;

constexpr uint32_t kMostRepeats = 1000;
constexpr int kDeepest = 50;
constexpr size_t kMostSets = 1 << 12;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  ParsedExpression parse() {
    result_.root = parse_choice();
    if (!done()) fail("a closing parenthesis without its opening");
    return std::move(result_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw std::invalid_argument("regular expression '" + std::string(text_) + "': at byte " +
                                std::to_string(at_) + ": " + what);
  }

  bool done() const { return at_ == text_.size(); }
  bool next_is(std::string_view token) const { return text_.substr(at_).starts_with(token); }
  bool take(std::string_view token) {
    if (!next_is(token)) return false;
    at_ += token.size();
    return true;
  }
  void expect(std::string_view token) {
    if (!take(token)) fail("expected '" + std::string(token) + "'");
  }
  uint32_t take_character() {
    if (done()) fail("it ends too early");
    const Utf8Character character = decode_utf8(text_, at_);
    if (character.code_point >= kInvalidByte) fail("it is not UTF-8");
    at_ += character.length;
    return character.code_point;
  }

  uint32_t add(ExpressionNode node) {
    result_.nodes.push_back(std::move(node));
    return static_cast<uint32_t>(result_.nodes.size() - 1);
  }
  uint32_t add_set(SymbolSet set) {
    if (result_.sets.size() == kMostSets)
      fail("more than " + std::to_string(kMostSets) + " characters and classes");
    result_.sets.push_back(std::move(set));
    return static_cast<uint32_t>(result_.sets.size() - 1);
  }
  uint32_t add_character(const SymbolSet& set) {
    return add({.kind = Kind::set, .set = add_set(folding_ ? folded(set) : set)});
  }
  SymbolSet folded(const SymbolSet& set) const {
    try {
      return ignore_case(set);
    } catch (const std::invalid_argument& error) {
      fail(error.what());
    }
  }

  // a|b|c
  uint32_t parse_choice() {
    if (++depth_ > kDeepest) fail("too deeply nested");
    ExpressionNode choice{.kind = Kind::choice};
    do {
      choice.children.push_back(parse_sequence());
    } while (take("|"));
    --depth_;
    return choice.children.size() == 1 ? choice.children[0] : add(std::move(choice));
  }

  uint32_t parse_sequence() {
    ExpressionNode sequence{.kind = Kind::sequence};
    while (!done() && !next_is("|") && !next_is(")")) {
      if (take("(?i)")) {
        folding_ = true;
      } else {
        sequence.children.push_back(parse_quantified());
      }
    }
    return add(std::move(sequence));
  }

  uint32_t parse_quantified() {
    uint32_t node = parse_atom();
    for (;;) {
      ExpressionNode repeat{.kind = Kind::repeat, .children = {node}};
      if (next_is("{")) {
        parse_bounds(repeat);
        if (next_is("?")) fail("a '?' after a counted repeat");
      } else if (take("*")) {
        repeat.most = ExpressionNode::kUnbounded;
        node = parse_mode(std::move(repeat));
        continue;
      } else if (take("+")) {
        repeat.least = 1;
        repeat.most = ExpressionNode::kUnbounded;
        node = parse_mode(std::move(repeat));
        continue;
      } else if (take("?")) {
        repeat.most = 1;
        node = parse_mode(std::move(repeat));
        continue;
      } else {
        return node;
      }
      node = add(std::move(repeat));
    }
  }

  // {n} {n,} {,m} {n,m}
  void parse_bounds(ExpressionNode& repeat) {
    expect("{");
    const bool has_least = !next_is(",");
    repeat.least = has_least ? parse_number() : 0;
    repeat.most = repeat.least;
    if (take(",")) repeat.most = next_is("}") ? ExpressionNode::kUnbounded : parse_number();
    expect("}");
    if (repeat.most < repeat.least) fail("a repeat whose bounds are reversed");
  }

  uint32_t parse_number() {
    uint32_t number = 0;
    const size_t begin = at_;
    for (; !done() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      number = number * 10 + static_cast<uint32_t>(text_[at_] - '0');
      if (number > kMostRepeats) fail("a repeat of more than " + std::to_string(kMostRepeats));
    }
    if (at_ == begin) fail("expected a number");
    return number;
  }

  // After * + or ?: lazy, possessive or neither. Possessive on a single character means that the character
  // after the run is not one of it: x++ is x+(?!x), and x?+ is x|(?!x).
  uint32_t parse_mode(ExpressionNode repeat) {
    if (take("?")) repeat.greedy = false;
    if (!repeat.greedy || !take("+")) return add(std::move(repeat));
    const ExpressionNode& body = result_.nodes[repeat.children[0]];
    if (body.kind != Kind::set) fail("a possessive repeat of more than one character");
    const SymbolSet outside = complement(result_.sets[body.set]);
    const uint32_t stop = add({.kind = Kind::lookahead, .set = add_set(outside), .at_end = true});
    if (repeat.most == 1) return add({.kind = Kind::choice, .children = {repeat.children[0], stop}});
    return add({.kind = Kind::sequence, .children = {add(std::move(repeat)), stop}});
  }

  uint32_t parse_atom() {
    if (take("(")) return parse_group();
    if (next_is("[")) return add_character(parse_class());
    if (take(".")) return add_character(complement({{'\n', '\n'}}));
    if (take("$")) return add({.kind = Kind::lookahead, .set = add_set({{'\n', '\n'}}), .at_end = true});
    if (take("\\z")) return add({.kind = Kind::lookahead, .set = add_set({}), .at_end = true});
    if (next_is("\\")) return add_character(parse_escape());
    for (const char* sign : {"*", "+", "?", "^", "{"}) {
      if (next_is(sign)) fail(std::string("'") + sign + "' is not supported here");
    }
    const uint32_t character = take_character();
    return add_character({{character, character}});
  }

  uint32_t parse_group() {
    if (take("?=")) return parse_lookahead(false);
    if (take("?!")) return parse_lookahead(true);
    const bool outside = folding_;
    if (take("?i:")) {
      folding_ = true;
    } else if (!take("?:") && next_is("?")) {
      fail("this kind of group is not supported");
    }
    const uint32_t node = parse_choice();
    expect(")");
    folding_ = outside;
    return node;
  }

  uint32_t parse_lookahead(bool negated) {
    const uint32_t inner = parse_atom();
    expect(")");
    const ExpressionNode& node = result_.nodes[inner];
    if (node.kind != Kind::set) fail("lookahead of more than one character is not supported");
    const SymbolSet& wanted = result_.sets[node.set];
    const SymbolSet set = negated ? complement(wanted) : wanted;
    return add({.kind = Kind::lookahead, .set = add_set(set), .at_end = negated});
  }

  // Remembered: collecting a set looks at every code point.
  const SymbolSet& property(std::string_view name) {
    const auto [known, is_new] = properties_.try_emplace(name);
    if (is_new) known->second = property_set(name);
    return known->second;
  }
  const SymbolSet& shorthand(char letter) {
    const auto [known, is_new] = shorthands_.try_emplace(letter);
    if (is_new) known->second = shorthand_set(letter);
    return known->second;
  }

  // What follows a backslash, as a set.
  SymbolSet parse_escape() {
    expect("\\");
    const bool inverted = next_is("P");
    if (take("p{") || take("P{")) {
      const bool negated = take("^");
      const size_t end = text_.find('}', at_);
      if (end == std::string_view::npos) fail("\\p without '}'");
      const SymbolSet& set = property(text_.substr(at_, end - at_));
      if (set.empty()) fail("unknown property '" + std::string(text_.substr(at_, end - at_)) + "'");
      at_ = end + 1;
      return negated != inverted ? complement(set) : set;
    }
    const uint32_t c = take_character();
    if (c == 's' || c == 'd' || c == 'w') return shorthand(static_cast<char>(c));
    if (c == 'S' || c == 'D' || c == 'W') return complement(shorthand(static_cast<char>(c + 32)));
    const uint32_t literal = literal_escape(c);
    return {{literal, literal}};
  }

  uint32_t literal_escape(uint32_t c) {
    switch (c) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'f':
        return '\f';
      case 'v':
        return '\v';
      case 'u':
        return parse_hexadecimal(4);
      case 'x':
        return parse_braced_hexadecimal();
      default:
        break;
    }
    const bool known =
        c < 0x80 && ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'));
    if (known) fail(std::string("the escape '\\") + static_cast<char>(c) + "' is not supported");
    return c;
  }

  uint32_t parse_braced_hexadecimal() {
    if (!take("{")) return parse_hexadecimal(2);
    const size_t end = text_.find('}', at_);
    if (end == std::string_view::npos || end == at_ || end > at_ + 6)
      fail("\\x{...} with 1 to 6 digits expected");
    const uint32_t number = parse_hexadecimal(end - at_);
    expect("}");
    return number;
  }

  uint32_t parse_hexadecimal(size_t digits) {
    uint32_t number = 0;
    for (size_t i = 0; i < digits; ++i) {
      const uint32_t c = take_character();
      const bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'f';
      if (!letter && (c < '0' || c > '9')) fail("hexadecimal digits expected");
      number = number * 16 + (letter ? (c | 0x20) - 'a' + 10 : c - '0');
    }
    if (number >= kLastSymbol) fail("not a code point");
    return number;
  }

  // [...]: the union of its members, cut with what follows each &&.
  SymbolSet parse_class() {
    if (++depth_ > kDeepest) fail("too deeply nested");
    expect("[");
    const bool negated = take("^");
    SymbolSet whole{{0, kLastSymbol}}, members;
    for (bool first = true; first || !next_is("]"); first = false) {
      if (next_is("[:")) fail("POSIX classes are not supported");
      if (take("&&")) {
        whole = intersect(whole, members);
        members.clear();
      } else if (next_is("[")) {
        members = unite(std::move(members), parse_class());
      } else {
        members = unite(std::move(members), parse_class_member());
      }
    }
    expect("]");
    --depth_;
    const SymbolSet set = intersect(whole, members);
    return negated ? complement(set) : set;
  }

  SymbolSet parse_class_member() {
    const SymbolSet low = parse_class_atom();
    const bool single = low.size() == 1 && low[0].first == low[0].last;
    const bool range = single && next_is("-") && !next_is("-]") && !next_is("-&&");
    if (!range) return low;
    expect("-");
    const SymbolSet high = parse_class_atom();
    if (high.size() != 1 || high[0].first != high[0].last || high[0].first < low[0].first) {
      fail("a range whose ends are not two characters in order");
    }
    return {{low[0].first, high[0].first}};
  }

  SymbolSet parse_class_atom() {
    if (next_is("\\")) return parse_escape();
    const uint32_t character = take_character();
    return {{character, character}};
  }

  std::string_view text_;
  size_t at_ = 0;
  int depth_ = 0;
  bool folding_ = false;
  std::map<std::string_view, SymbolSet> properties_;
  std::map<char, SymbolSet> shorthands_;
  ParsedExpression result_;
};

}  // namespace

ParsedExpression parse_expression(std::string_view expression) { return Parser(expression).parse(); }

}  // namespace pyllm::tokenizers
