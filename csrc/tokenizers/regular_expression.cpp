#include "regular_expression.h"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

namespace pyllm::tokenizers {
namespace {

constexpr size_t kMostInstructions = 1 << 14, kMostStates = 1 << 13, kMostClasses = 256;
// Threads followed while the states are made: a thousand times what a known grammar takes, a fraction of a
// second.
constexpr size_t kMostSteps = 1 << 25;
constexpr size_t kLongFailure = 16;
constexpr uint32_t kNeverFailed = UINT32_MAX;

struct Instruction {
  enum class Kind : uint8_t { set, split, lookahead, match } kind;
  uint32_t set = 0;
  uint32_t next = 0, second = 0;
  bool at_end = false;
};

// Writes instructions back to front: each node is compiled with what follows it known.
class Compiler {
 public:
  explicit Compiler(const ParsedExpression& parsed) : parsed_(parsed) {
    const uint32_t match = emit({Instruction::Kind::match});
    start_ = compile(parsed.root, match);
  }

  std::vector<Instruction> take() { return std::move(program_); }
  uint32_t start() const { return start_; }

 private:
  using Kind = ExpressionNode::Kind;

  uint32_t emit(Instruction instruction) {
    if (program_.size() == kMostInstructions) throw std::invalid_argument("regular expression: too long");
    program_.push_back(instruction);
    return static_cast<uint32_t>(program_.size() - 1);
  }

  uint32_t compile(uint32_t index, uint32_t next) {
    const ExpressionNode& node = parsed_.nodes[index];
    switch (node.kind) {
      case Kind::set:
        return emit({Instruction::Kind::set, node.set, next});
      case Kind::lookahead:
        return emit({Instruction::Kind::lookahead, node.set, next, 0, node.at_end});
      case Kind::sequence:
        for (auto child = node.children.rbegin(); child != node.children.rend(); ++child) {
          next = compile(*child, next);
        }
        return next;
      case Kind::choice: {
        uint32_t start = compile(node.children.back(), next);
        for (size_t i = node.children.size() - 1; i-- > 0;) {
          start = emit({Instruction::Kind::split, 0, compile(node.children[i], next), start});
        }
        return start;
      }
      case Kind::repeat:
        break;
    }
    return compile_repeat(node, next);
  }

  uint32_t split(bool greedy, uint32_t body, uint32_t after) {
    return emit({Instruction::Kind::split, 0, greedy ? body : after, greedy ? after : body});
  }

  uint32_t compile_repeat(const ExpressionNode& node, uint32_t after) {
    uint32_t next = after;
    if (node.most == ExpressionNode::kUnbounded) {
      next = split(node.greedy, after, after);
      const uint32_t body = compile(node.children[0], next);
      (node.greedy ? program_[next].next : program_[next].second) = body;
    } else {
      for (uint32_t i = node.least; i < node.most; ++i) {
        next = split(node.greedy, compile(node.children[0], next), after);
      }
    }
    for (uint32_t i = 0; i < node.least; ++i) next = compile(node.children[0], next);
    return next;
  }

  const ParsedExpression& parsed_;
  std::vector<Instruction> program_;
  uint32_t start_;
};

// Numbers the classes of characters that the sets do not tell apart; bytes that are no character are in class
// 0.
class Classifier {
 public:
  explicit Classifier(const std::vector<SymbolSet>& sets) {
    std::vector<uint32_t> borders{0};
    for (const SymbolSet& set : sets) {
      for (const SymbolRange range : set) {
        borders.push_back(range.first);
        if (range.last < kLastSymbol) borders.push_back(range.last + 1);
      }
    }
    std::sort(borders.begin(), borders.end());
    borders.erase(std::unique(borders.begin(), borders.end()), borders.end());
    number_of(signature(sets, kLastSymbol));
    for (const uint32_t border : borders) {
      if (border < kLastSymbol) runs_.push_back(border << 8 | number_of(signature(sets, border)));
    }
  }

  const std::vector<uint32_t>& runs() const { return runs_; }
  uint32_t count() const { return static_cast<uint32_t>(members_.size()); }
  bool contains(uint32_t set, uint32_t number) const { return members_[number][set]; }

 private:
  static std::vector<bool> signature(const std::vector<SymbolSet>& sets, uint32_t symbol) {
    std::vector<bool> in;
    for (const SymbolSet& set : sets) {
      const auto after = std::upper_bound(set.begin(), set.end(), symbol,
                                          [](uint32_t s, SymbolRange range) { return s < range.first; });
      in.push_back(after != set.begin() && std::prev(after)->last >= symbol);
    }
    return in;
  }

  uint32_t number_of(const std::vector<bool>& signature) {
    const auto [found, added] = numbers_.try_emplace(signature, static_cast<uint32_t>(members_.size()));
    if (added) members_.push_back(signature);
    if (members_.size() > kMostClasses) throw std::invalid_argument("regular expression: too many sets");
    return found->second;
  }

  std::map<std::vector<bool>, uint32_t> numbers_;
  std::vector<std::vector<bool>> members_;
  std::vector<uint32_t> runs_;
};

// Builds the rows of all states that can be reached.
class StateBuilder {
 public:
  using State = std::vector<uint32_t>;  // instructions, best first

  StateBuilder(std::vector<Instruction> program, uint32_t start, const Classifier& classes)
      : program_(std::move(program)), classes_(classes), columns_(classes.count() + 1) {
    number_of({});
    number_of({start});
    for (size_t state = 0; state < states_.size(); ++state) {
      for (uint32_t symbol = 0; symbol < columns_; ++symbol) {
        transitions_.push_back(transition(State(states_[state]), symbol));
      }
    }
  }

  std::vector<uint32_t> take() { return std::move(transitions_); }

 private:
  uint32_t number_of(const State& state) {
    const auto [found, added] = numbers_.try_emplace(state, static_cast<uint32_t>(states_.size()));
    if (added) states_.push_back(state);
    if (states_.size() > kMostStates) throw std::invalid_argument("regular expression: too many states");
    return found->second;
  }

  // Follows the threads of a state in their order; a match ends those after it.
  uint32_t transition(const State& state, uint32_t symbol) {
    const bool at_end = symbol + 1 == columns_;
    std::vector<bool> visited(program_.size()), listed(program_.size());
    std::vector<uint32_t> stack(state.rbegin(), state.rend());
    State next;
    while (!stack.empty()) {
      const uint32_t index = stack.back();
      stack.pop_back();
      if (++steps_ > kMostSteps) throw std::invalid_argument("regular expression: too many states");
      if (visited[index]) continue;
      visited[index] = true;
      const Instruction& instruction = program_[index];
      switch (instruction.kind) {
        case Instruction::Kind::match:
          return number_of(next) << 1 | 1;
        case Instruction::Kind::split:
          stack.push_back(instruction.second);
          stack.push_back(instruction.next);
          break;
        case Instruction::Kind::lookahead:
          if (at_end ? instruction.at_end : classes_.contains(instruction.set, symbol)) {
            stack.push_back(instruction.next);
          }
          break;
        case Instruction::Kind::set: {
          const bool taken = !at_end && classes_.contains(instruction.set, symbol);
          if (taken && !listed[instruction.next]) next.push_back(instruction.next);
          listed[instruction.next] = listed[instruction.next] || taken;
          break;
        }
      }
    }
    return number_of(next) << 1;
  }

  std::vector<Instruction> program_;
  const Classifier& classes_;
  uint32_t columns_;
  size_t steps_ = 0;
  std::map<State, uint32_t> numbers_;
  std::vector<State> states_;
  std::vector<uint32_t> transitions_;
};

std::vector<uint32_t> build_states(const ParsedExpression& parsed, const Classifier& classes) {
  Compiler compiler(parsed);
  return StateBuilder(compiler.take(), compiler.start(), classes).take();
}

}  // namespace

RegularExpression::Automaton RegularExpression::build(std::string_view expression) {
  const ParsedExpression parsed = parse_expression(expression);
  const Classifier classes(parsed.sets);
  return {TwoStageTable(classes.runs()), classes.count() + 1, build_states(parsed, classes)};
}

RegularExpression::RegularExpression(std::string_view expression) : automaton_(build(expression)) {}

RegularExpression::Symbol RegularExpression::symbol_at(std::string_view text, size_t at) const {
  if (at == text.size()) return {automaton_.columns - 1, 0};
  const Utf8Character character = decode_utf8(text, at);
  return {automaton_.classes[character.code_point], character.length};
}

// End of the match that starts at `begin`, or kNoMatch.
size_t RegularExpression::match_at(std::string_view text, size_t begin, FailedStates& failed) const {
  size_t end = kNoMatch, at = begin;
  uint32_t state = kStart;
  for (;;) {
    const Symbol symbol = symbol_at(text, at);
    const uint32_t transition = automaton_.transitions[size_t{state} * automaton_.columns + symbol.number];
    if ((transition & 1) != 0) end = at;
    state = transition >> 1;
    if (state == kDead || symbol.length == 0) break;
    at += symbol.length;
    if (end == kNoMatch && !failed.empty() && failed[at] == state) return kNoMatch;
  }
  if (end == kNoMatch && at - begin > kLongFailure) remember_failure(text, begin, at, failed);
  return end;
}

void RegularExpression::remember_failure(std::string_view text, size_t begin, size_t end,
                                         FailedStates& failed) const {
  if (failed.empty()) failed.assign(text.size() + 1, kNeverFailed);
  uint32_t state = kStart;
  for (size_t at = begin; at < end;) {
    const Symbol symbol = symbol_at(text, at);
    state = automaton_.transitions[size_t{state} * automaton_.columns + symbol.number] >> 1;
    at += symbol.length;
    failed[at] = state;
  }
}

void RegularExpression::find_all(std::string_view text, std::vector<Span>& matches) const {
  FailedStates failed;
  size_t after_match = kNoMatch;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = match_at(text, begin, failed);
    const bool found = end != kNoMatch && !(end == begin && end == after_match);
    if (found) {
      matches.push_back({begin, end});
      after_match = end;
    }
    begin = found && end > begin ? end : begin + std::max<size_t>(symbol_at(text, begin).length, 1);
  }
}

}  // namespace pyllm::tokenizers
