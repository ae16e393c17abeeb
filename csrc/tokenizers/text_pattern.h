// What a step looks for in a text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "aligned_text.h"

namespace pyllm::tokenizers {

class TextPattern {
 public:
  virtual ~TextPattern() = default;

  // Appends the matches, left to right; they do not overlap.
  virtual void find_all(std::string_view text, std::vector<Span>& matches) const = 0;

  // Whether no match goes over the place before a space that follows another character, nor depends on what
  // stands beyond it.
  virtual bool is_local() const { return false; }
};

using TextPatternPointer = std::unique_ptr<const TextPattern>;

// The string itself. Throws std::invalid_argument if it is empty.
TextPatternPointer make_literal(std::string literal);

// Each single character for which the predicate holds.
TextPatternPointer make_character_pattern(std::function<bool(uint32_t)> predicate);

// A regular expression (see regular_expression.h).
TextPatternPointer make_expression(std::string_view expression);

}  // namespace pyllm::tokenizers
