// Pretokenizers as a list of steps, named and behaving as in the tokenizers package. Known lists have a
// scanner of their own (pretokenizer.h); this is the general way.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "aligned_text.h"
#include "text_pattern.h"

namespace pyllm::tokenizers {

// A text and its parts that become pieces; what lies between the parts is dropped.
struct Pieces {
  AlignedText text;
  std::vector<Span> parts;
  bool at_start = true;  // the text starts where the original text does
};

class PretokenizerStep {
 public:
  virtual ~PretokenizerStep() = default;
  virtual void apply(Pieces& pieces) const = 0;

  // Whether it treats the start of the original text unlike other places.
  virtual bool minds_start() const { return false; }

  // Whether it treats what stands before a space that follows another character, and what stands after, each
  // without the other, but for a border between the two that depends on those two characters alone.
  virtual bool is_local() const { return false; }
};

using PretokenizerStepPointer = std::unique_ptr<const PretokenizerStep>;

// What becomes of a match and of the text between matches.
enum class SplitBehavior {
  removed,
  isolated,
  merged_with_previous,  // a match ends the part before it
  merged_with_next,      // and starts the one after it
  contiguous,            // matches that touch are one part
};

// invert: what lies between the matches is what counts as a match.
PretokenizerStepPointer make_split(TextPatternPointer pattern, SplitBehavior behavior, bool invert);

enum class PrependScheme { always, first, never };

// Spaces become `marker`; each part (or only the first of the text) starts with one; `split` cuts before
// every marker.
PretokenizerStepPointer make_metaspace(std::string marker, PrependScheme scheme, bool split);

// Each part starts with a space.
PretokenizerStepPointer make_prefix_space();

}  // namespace pyllm::tokenizers
