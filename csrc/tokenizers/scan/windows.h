// Piece starts of 64 bytes by bit arithmetic. Included by the file of one level (avx2.cpp, avx512.cpp), which
// defines `ByteMasks classify(const char* bytes)` before; everything stays in its anonymous namespace.
//
// Bit i of a mask speaks of byte i; `x << 1` is "the byte before is in x", `x >> 1` "the next byte is". The
// window starts with a piece, so nothing before it matters.

namespace pyllm::tokenizers {
namespace {

enum class Grammar { gpt2, digits_gpt2, three_digits, one_digit, o200k };

constexpr uint64_t bit(unsigned i) { return uint64_t{1} << i; }
inline unsigned lowest(uint64_t mask) { return static_cast<unsigned>(__builtin_ctzll(mask)); }
inline unsigned highest(uint64_t mask) { return 63u - static_cast<unsigned>(__builtin_clzll(mask)); }
// All bits up to that one.
inline uint64_t through(unsigned i) { return ~uint64_t{0} >> (63 - i); }

struct Window {
  const char* bytes;
  ByteMasks is;
  uint64_t letter, white, symbol;

  explicit Window(const char* at) : bytes(at), is(classify(at)) {
    letter = is.upper | is.lower;
    white = is.space | is.blank | is.newline;
    symbol = ~(letter | is.digit | white | is.high);
  }

  // Bits whose starts no byte at or after the first one that is not ASCII can change: not inside of
  // whitespace that goes on there, nor after an apostrophe whose letters may lie there.
  uint64_t decided() const {
    const unsigned end = is.high == 0 ? 64 : lowest(is.high);
    if (end == 0) return 0;
    uint64_t known = through(end - 1);
    const uint64_t solid = known & ~white;
    if (solid == 0) return 0;
    if (highest(solid) + 1 < end) known = through(highest(solid) + 1);
    const uint64_t late = is.apostrophe & known & ~(known >> 2);
    if (late != 0) known &= through(lowest(late)) >> 1;
    return known;
  }

  // 2 or 3 where 's 't 'm 'd or 're 've 'll stands at byte i, which must be a decided one, else 0.
  unsigned contraction(unsigned i, char fold) const {
    const char first = static_cast<char>(bytes[i + 1] | fold),
               second = static_cast<char>(bytes[i + 2] | fold);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    const bool two =
        (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
    return two ? 3 : 0;
  }
};

// Of `run`, the bits that a run of ones leads to from a bit of `from` (from is a part of run).
inline uint64_t flood(uint64_t from, uint64_t run) { return (run & ~(run + from)) | from; }

//  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
template <Grammar grammar>
uint64_t gpt2_starts(const Window& w, uint64_t decided) {
  constexpr bool kDigitsFirst = grammar == Grammar::digits_gpt2;
  const uint64_t after_space = w.is.space << 1;
  uint64_t starts = w.letter & ~(w.letter << 1) & ~after_space;
  starts |= w.symbol & ~(w.symbol << 1) & ~after_space;
  starts |= kDigitsFirst ? w.is.digit : w.is.digit & ~(w.is.digit << 1) & ~after_space;
  // A run of whitespace, and its last character unless a digit that was cut out before follows.
  starts |= w.white & ~(w.white << 1);
  starts |= w.white & ~(w.white >> 1) & (kDigitsFirst ? ~(w.is.digit >> 1) : ~uint64_t{0});
  for (uint64_t left = w.is.apostrophe & starts & decided; left != 0; left &= left - 1) {
    const unsigned i = lowest(left);
    if (const unsigned length = w.contraction(i, 0); length != 0) {
      starts &= ~bit(i + 1);
      if (i + length < 64) starts |= bit(i + length);
    }
  }
  return starts;
}

// Whitespace of all later grammars: \s*[\r\n]+|\s+(?!\S)|\s+   `eaten` are line ends that belong to symbols.
//
//   ⏎ . . ⏎ ⏎ . . . x      everything through the last line end, then the blanks but for one, then that one
//   S         S   S
inline uint64_t whitespace_starts(const Window& w, uint64_t eaten) {
  const uint64_t white = w.white & ~eaten, newline = w.is.newline & ~eaten, blank = white & ~newline;
  uint64_t starts = white & ~(white << 1);
  starts |= blank & ~(white >> 1);
  uint64_t resumed = blank & (newline << 1);
  // Blanks after a line end start a piece only if no other line end follows them.
  for (uint64_t ends = (blank + resumed) & newline; resumed != 0 && ends != 0; ends &= ends - 1) {
    const uint64_t before = resumed & (through(lowest(ends)) >> 1);
    if (before != 0) resumed &= ~bit(highest(before));
  }
  return starts | resumed;
}

// \p{N}{1,3} or \p{N}
template <Grammar grammar>
uint64_t digit_starts(uint64_t digit) {
  if (grammar == Grammar::one_digit) return digit;
  const uint64_t fourth = digit & (digit << 1) & (digit << 2) & (digit << 3);
  uint64_t starts = digit & ~(digit << 1);
  for (uint64_t next = (starts << 3) & fourth; next != 0; next = (next << 3) & fourth) starts |= next;
  return starts;
}

// (?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*| and whitespace
template <Grammar grammar>
uint64_t word_starts(const Window& w, uint64_t decided) {
  const uint64_t eaten = flood(w.is.newline & (w.symbol << 1), w.is.newline);
  const uint64_t symbols = w.symbol & ~(w.symbol << 1) & ~(w.is.space << 1);
  // A lone symbol or the last blank goes with the letters after it.
  const uint64_t prefix = symbols | w.is.space | w.is.blank;
  uint64_t starts = symbols | (w.letter & ~(w.letter << 1) & ~(prefix << 1));
  starts |= digit_starts<grammar>(w.is.digit) | whitespace_starts(w, eaten);
  for (uint64_t left = w.is.apostrophe & symbols & decided; left != 0; left &= left - 1) {
    const unsigned i = lowest(left);
    const unsigned length = w.contraction(i, ' ');
    if (length != 0 && i + length < 64) starts |= bit(i + length);
  }
  return starts;
}

// With P = [^\r\n\p{L}\p{N}], over ASCII: P?[A-Z]*[a-z]+(?i:'s|...)?|P?[A-Z]+[a-z]*(?i:'s|...)?|\p{N}{1,3}|
//  ?[^\s\p{L}\p{N}]+[\r\n/]*| and whitespace
inline uint64_t cased_starts(const Window& w, uint64_t decided) {
  const uint64_t trailing = w.is.newline | w.is.slash;
  const uint64_t eaten = flood(w.is.newline & (w.symbol << 1), trailing);
  const uint64_t symbol = w.symbol & ~eaten;
  const uint64_t symbols = symbol & ~(symbol << 1) & ~(w.is.space << 1);
  const uint64_t prefix = symbols | w.is.space | w.is.blank;
  uint64_t starts =
      symbols | (w.letter & ~(w.letter << 1) & ~(prefix << 1)) | (w.is.upper & (w.is.lower << 1));
  starts |= digit_starts<Grammar::o200k>(w.is.digit) | whitespace_starts(w, eaten & w.is.newline);
  unsigned taken = 64;  // end of the contraction before: another one right there begins a word
  for (uint64_t left = w.is.apostrophe & symbols & (w.letter << 1) & decided; left != 0; left &= left - 1) {
    const unsigned i = lowest(left);
    const unsigned length = i != taken ? w.contraction(i, ' ') : 0;
    if (length == 0) continue;
    taken = i + length;
    starts &= ~(through(taken - 1) & ~(bit(i) - 1));
    if (taken < 64) starts |= bit(taken);
  }
  return starts;
}

template <Grammar grammar>
uint64_t piece_starts(const Window& w, uint64_t decided) {
  if constexpr (grammar == Grammar::gpt2 || grammar == Grammar::digits_gpt2)
    return gpt2_starts<grammar>(w, decided);
  if constexpr (grammar == Grammar::three_digits || grammar == Grammar::one_digit) {
    return word_starts<grammar>(w, decided);
  }
  if constexpr (grammar == Grammar::o200k) return cased_starts(w, decided);
}

// The 64 bytes of a window; behind the end of the text they are no characters, so nothing is decided there.
inline const char* window_bytes(std::string_view text, size_t at, char (&padded)[64]) {
  const size_t left = text.size() - at;
  if (left >= sizeof(padded)) return text.data() + at;
  std::memset(padded, 0xFF, sizeof(padded));
  std::memcpy(padded, text.data() + at, left);
  return padded;
}

inline bool beyond_ascii(std::string_view text, size_t at) {
  return static_cast<signed char>(text[at]) < 0 ||
         (at + 1 < text.size() && static_cast<signed char>(text[at + 1]) < 0);
}

template <Grammar grammar>
size_t scan(std::string_view text, size_t begin, NextPiece next, size_t* ends, size_t capacity) {
  size_t count = 0, at = begin;
  while (at < text.size() && count + kScanCapacity <= capacity) {
    bool unknown = true;
    if (!beyond_ascii(text, at)) {
      char padded[64];
      const Window w(window_bytes(text, at, padded));
      const uint64_t decided = w.decided();
      const size_t base = at, before = count;
      for (uint64_t starts = piece_starts<grammar>(w, decided) & decided & ~bit(0); starts != 0;
           starts &= starts - 1) {
        ends[count++] = at = base + lowest(starts);
      }
      unknown = w.is.high != 0 || count == before;
    }
    if (unknown) ends[count++] = at = next(text, at);
  }
  return count;
}

constexpr GrammarScans kScans = {
    .gpt2 = scan<Grammar::gpt2>,
    .digits_gpt2 = scan<Grammar::digits_gpt2>,
    .cl100k = scan<Grammar::three_digits>,
    .llama3 = scan<Grammar::three_digits>,
    .qwen2 = scan<Grammar::one_digit>,
    .o200k = scan<Grammar::o200k>,
};

}  // namespace
}  // namespace pyllm::tokenizers
