#include "pretokenizer.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "character_class.h"
#include "core/isa.h"
#include "scan/scan.h"

namespace pyllm::tokenizers {
namespace {

// A text as a sequence of character classes.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text), table_(CharacterTable::instance()) {}

  size_t size() const { return text_.size(); }
  bool at_byte(size_t at, char byte) const { return at < text_.size() && text_[at] == byte; }

  // Whether a character of the set starts at `at`.
  bool is(size_t at, ClassSet set) const {
    return at < text_.size() && (table_.classify(text_, at).set & set) != 0;
  }

  // The character at `at`, which must exist.
  ClassedCharacter character(size_t at) const { return table_.classify(text_, at); }

  // After the character at `at`, which must exist.
  size_t after(size_t at) const { return at + table_.classify(text_, at).length; }

  // After the longest run, starting at `at`, of characters of the set; at most `limit` characters.
  size_t skip(size_t at, ClassSet set, size_t limit = SIZE_MAX) const {
    for (; at < text_.size() && limit > 0; --limit) {
      const ClassedCharacter character = table_.classify(text_, at);
      if ((character.set & set) == 0) break;
      at += character.length;
    }
    return at;
  }

  // After 's 't 're 've 'm 'll 'd, or `at` if none starts there. Ignoring case, U+017F (long s) is an s.
  size_t skip_contraction(size_t at, bool ignore_case) const {
    if (!at_byte(at, '\'')) return at;
    const auto letter = [&](size_t i) {
      if (at + i >= text_.size()) return '\0';
      const char c = text_[at + i];
      return ignore_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    };
    const char first = letter(1), second = letter(2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
    const bool two =
        (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
    if (two) return at + 3;
    return ignore_case && first == '\xC5' && second == '\xBF' ? at + 3 : at;
  }

 private:
  std::string_view text_;
  const CharacterTable& table_;
};

struct WhitespaceRun {
  size_t end = 0;            // after the run
  size_t last = 0;           // start of its last character
  size_t after_newline = 0;  // after its last \r or \n; 0 if it has none
};

WhitespaceRun scan_whitespace(const Scanner& text, size_t begin) {
  WhitespaceRun run{begin, begin, 0};
  while (text.is(run.end, kSpaces)) {
    const bool newline = text.is(run.end, kNewlines);
    run.last = run.end;
    run.end = text.after(run.end);
    if (newline) run.after_newline = run.end;
  }
  return run;
}

// \s+(?!\S)|\s+   A run gives its last character to the word that follows, unless it has no other.
size_t leave_one(const WhitespaceRun& run, size_t begin, bool followed) {
  return followed && run.last > begin ? run.last : run.end;
}

// \s*[\r\n]+|\s+(?!\S)|\s+
size_t whitespace_by_lines(const Scanner& text, size_t begin) {
  const WhitespaceRun run = scan_whitespace(text, begin);
  if (run.after_newline != 0) return run.after_newline;
  return leave_one(run, begin, run.end < text.size());
}

//  ?[^\s\p{L}\p{N}]+ and then a run of the trailing bytes; `begin` if nothing matches.
template <typename IsTrailing>
size_t skip_symbols(const Scanner& text, size_t begin, IsTrailing&& is_trailing) {
  const size_t body = text.at_byte(begin, ' ') ? begin + 1 : begin;
  size_t end = text.skip(body, kSymbols);
  if (end == body) return begin;
  while (is_trailing(end)) ++end;
  return end;
}

size_t skip_symbols_and_newlines(const Scanner& text, size_t begin) {
  return skip_symbols(text, begin,
                      [&](size_t at) { return text.at_byte(at, '\r') || text.at_byte(at, '\n'); });
}

// [^\r\n\p{L}\p{N}]?\p{L}+ or `begin`.
size_t skip_word(const Scanner& text, size_t begin) {
  const ClassedCharacter first = text.character(begin);
  if ((first.set & kLetters) != 0) return text.skip(begin + first.length, kLetters);
  if ((first.set & (kNumbers | kNewlines)) != 0) return begin;
  const size_t body = begin + first.length, end = text.skip(body, kLetters);
  return end == body ? begin : end;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t next_gpt2(std::string_view bytes, size_t begin) {
  const Scanner text(bytes);
  if (const size_t end = text.skip_contraction(begin, false); end > begin) return end;
  const size_t body = text.at_byte(begin, ' ') ? begin + 1 : begin;
  if (body < text.size()) {
    const ClassedCharacter first = text.character(body);
    for (const ClassSet set : {kLetters, kNumbers, kSymbols}) {
      if ((first.set & set) != 0) return text.skip(body + first.length, set);
    }
  }
  const WhitespaceRun run = scan_whitespace(text, begin);
  return leave_one(run, begin, run.end < text.size());
}

// Every \p{N} is first cut out alone, then next_gpt2 runs on what lies between.
size_t next_digits_gpt2(std::string_view bytes, size_t begin) {
  const Scanner text(bytes);
  if (const size_t end = text.skip_contraction(begin, false); end > begin) return end;
  if (text.is(begin, kNumbers)) return text.after(begin);
  const size_t body = text.at_byte(begin, ' ') ? begin + 1 : begin;
  for (const ClassSet set : {kLetters, kSymbols}) {
    if (text.is(body, set)) return text.skip(body, set);
  }
  const WhitespaceRun run = scan_whitespace(text, begin);
  return leave_one(run, begin, run.end < text.size() && !text.is(run.end, kNumbers));
}

// What cl100k, llama3 and qwen2 share: (?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}|
//  ?[^\s\p{L}\p{N}]+[\r\n]* or `begin`, which is then whitespace.
size_t skip_lexeme(const Scanner& text, size_t begin, size_t digits) {
  if (const size_t end = text.skip_contraction(begin, true); end > begin) return end;
  if (const size_t end = skip_word(text, begin); end > begin) return end;
  if (const size_t end = text.skip(begin, kNumbers, digits); end > begin) return end;
  return skip_symbols_and_newlines(text, begin);
}

// '(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
// ?[^\s\p{L}\p{N}]+[\r\n]*|\s+$|\s*[\r\n]|\s+(?!\S)|\s
size_t next_cl100k(std::string_view bytes, size_t begin) {
  const Scanner text(bytes);
  if (const size_t end = skip_lexeme(text, begin, 3); end > begin) return end;
  const WhitespaceRun run = scan_whitespace(text, begin);
  if (run.end < text.size() && run.after_newline != 0) return run.after_newline;
  return leave_one(run, begin, run.end < text.size());
}

// As cl100k, but a run of whitespace at the end of the text is cut after its last newline.
size_t next_llama3(std::string_view bytes, size_t begin) {
  const Scanner text(bytes);
  const size_t end = skip_lexeme(text, begin, 3);
  return end > begin ? end : whitespace_by_lines(text, begin);
}

// As llama3, but digits stand alone.
size_t next_qwen2(std::string_view bytes, size_t begin) {
  const Scanner text(bytes);
  const size_t end = skip_lexeme(text, begin, 1);
  return end > begin ? end : whitespace_by_lines(text, begin);
}

// With P = [^\r\n\p{L}\p{N}], U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], W = [\p{Ll}\p{Lm}\p{Lo}\p{M}]:
// P?U*W+ or else P?U+W*, or `begin`. A run of U that no lower-case letter follows must give back characters
// until one of W is the last: that is its last Lm, Lo or M. Without one, the prefix itself may be that
// character (a mark).
size_t skip_cased_word(const Scanner& text, size_t begin) {
  constexpr ClassSet kBoth = class_set(CharacterClass::letter, CharacterClass::mark);
  constexpr ClassSet kUpper = class_set(CharacterClass::upper) | kBoth;
  constexpr ClassSet kLower = class_set(CharacterClass::lower) | kBoth;
  const size_t body = text.is(begin, kLetters | kNumbers | kNewlines) ? begin : text.after(begin);
  size_t end = body, after_both = 0;
  while (text.is(end, kUpper)) {
    const bool both = text.is(end, kBoth);
    end = text.after(end);
    if (both) after_both = end;
  }
  if (text.is(end, kLower)) return text.skip(end, kLower);
  if (after_both != 0) return after_both;
  if (body > begin && text.is(begin, class_set(CharacterClass::mark))) return body;
  return end > body ? end : begin;
}

// P?U*W+(?i:'s|...)?|P?U+W*(?i:'s|...)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
size_t next_o200k(std::string_view bytes, size_t begin) {
  const Scanner text(bytes);
  if (const size_t end = skip_cased_word(text, begin); end > begin) return text.skip_contraction(end, true);
  if (const size_t end = text.skip(begin, kNumbers, 3); end > begin) return end;
  const auto trailing = [&](size_t at) {
    return text.at_byte(at, '\r') || text.at_byte(at, '\n') || text.at_byte(at, '/');
  };
  if (const size_t end = skip_symbols(text, begin, trailing); end > begin) return end;
  return whitespace_by_lines(text, begin);
}

size_t next_none(std::string_view bytes, size_t) { return bytes.size(); }

struct Grammar {
  std::string_view name;
  NextPiece next_piece;
  ScanPieces GrammarScans::* scan;  // nullptr: windows do not know it
};

constexpr Grammar kGrammars[] = {
    {"gpt2", next_gpt2, &GrammarScans::gpt2},
    {"digits_gpt2", next_digits_gpt2, &GrammarScans::digits_gpt2},
    {"cl100k", next_cl100k, &GrammarScans::cl100k},
    {"llama3", next_llama3, &GrammarScans::llama3},
    {"qwen2", next_qwen2, &GrammarScans::qwen2},
    {"o200k", next_o200k, &GrammarScans::o200k},
    {"none", next_none, nullptr},
};

size_t scan_one_by_one(std::string_view text, size_t begin, NextPiece next, size_t* ends, size_t capacity) {
  size_t count = 0;
  for (size_t at = begin; at < text.size() && count < capacity; ++count) ends[count] = at = next(text, at);
  return count;
}

// In every grammar but `none` a piece ends after a newline that stands between a character that is no
// whitespace and a letter: no word holds a newline, a run of symbols ends with it, and a run of whitespace is
// that one character.
bool safe_cut(std::string_view text, size_t at) {
  if (text[at - 1] != '\n') return false;
  const Scanner scanner(text);
  return scanner.is(at, kLetters) && !scanner.is(previous_utf8(text, at - 1), kSpaces);
}

// Also before a space, or a character that is no \w and no apostrophe, which follows a letter: no word goes
// on there. A letter has to follow the space, as whitespace goes by what is around it.
bool border_after_letter(const Scanner& text, std::string_view bytes, size_t at) {
  const bool space = bytes[at] == ' ' && text.is(at + 1, kLetters);
  const bool other = bytes[at] != '\'' && text.is(at, class_set(CharacterClass::other));
  if (!space && !other) return false;
  const size_t before = previous_utf8(bytes, at);
  return text.after(before) == at && text.is(before, kLetters);
}

}  // namespace

NextPiece find_pretokenizer(std::string_view grammar) {
  CharacterTable::instance();  // so that no text waits for it
  for (const Grammar& known : kGrammars) {
    if (known.name == grammar) return known.next_piece;
  }
  throw std::invalid_argument("no pretokenizer grammar is named '" + std::string(grammar) + "'");
}

#if defined(__x86_64__)
extern const GrammarScans kScansAvx2, kScansAvx512;
#endif

ScanPieces find_scan(NextPiece next) {
  const GrammarScans* scans = nullptr;
#if defined(__x86_64__)
  const Isa isa = active_isa();
  if (isa == Isa::avx2) scans = &kScansAvx2;
  if (isa == Isa::avx512 || isa == Isa::amx) scans = &kScansAvx512;
#endif
  for (const Grammar& known : kGrammars) {
    if (known.next_piece == next && known.scan != nullptr && scans != nullptr) return scans->*known.scan;
  }
  return scan_one_by_one;
}

size_t find_safe_cut(NextPiece next_piece, std::string_view text, size_t from) {
  if (next_piece == next_none) return text.size();
  for (size_t at = std::max<size_t>(from, 2); at < text.size(); ++at) {
    if (safe_cut(text, at)) return at;
  }
  return text.size();
}

size_t find_border(NextPiece next_piece, std::string_view text, size_t from) {
  if (next_piece == next_none) return text.size();
  const Scanner scanner(text);
  for (size_t at = std::max<size_t>(from, 2); at < text.size(); ++at) {
    if (safe_cut(text, at) || border_after_letter(scanner, text, at)) return at;
  }
  return text.size();
}

size_t find_last_safe_cut(NextPiece next_piece, std::string_view text, size_t from) {
  if (next_piece == next_none || text.empty()) return 0;
  for (size_t at = text.size() - 1; at > std::max<size_t>(from, 1); --at) {
    if (safe_cut(text, at)) return at;
  }
  return 0;
}

std::vector<std::string_view> split_safely(NextPiece next_piece, std::string_view text, size_t size) {
  std::vector<std::string_view> chunks;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = find_safe_cut(next_piece, text, begin + size);
    chunks.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return chunks;
}

}  // namespace pyllm::tokenizers
