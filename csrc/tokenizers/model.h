// What turns a piece of text into ids: byte pairs, character pairs, Unigram or WordPiece.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "merge_steps.h"
#include "merge_table.h"
#include "pretokenizer.h"
#include "vocabulary.h"

namespace pyllm::tokenizers {

struct EncoderScratch;

// Immutable: any number of threads may use it, each with a scratch of its own, which is used with this model
// only.
class Model {
 public:
  Model() = default;
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  virtual ~Model() = default;

  // Appends the ids of one piece, which is not empty, and, if asked for, how many bytes of the piece each
  // stands for.
  virtual void encode_piece(std::string_view piece, EncoderScratch& scratch, std::vector<TokenId>& ids,
                            std::vector<size_t>* lengths) const = 0;

  // Appends the ids of all pieces of a text.
  virtual void encode_text(NextPiece next_piece, std::string_view text, EncoderScratch& scratch,
                           std::vector<TokenId>& ids) const {
    for_each_piece(next_piece, text,
                   [&](std::string_view piece) { encode_piece(piece, scratch, ids, nullptr); });
  }

  // Whether a piece may be cut between the two characters without changing its ids.
  virtual bool cuts_between(uint32_t, uint32_t) const { return false; }

  // Whether the ids of a piece depend on the pieces before it in the text, by `path_score`. The piece that
  // `encode_next` encodes is followed by a number that `go_on` wants, if it is to be remembered; kNoToken: it
  // is not.
  virtual bool has_memory() const { return false; }
  virtual TokenId encode_next(std::string_view, EncoderScratch&, std::vector<TokenId>&) const {
    return kNoToken;
  }

  // As if a remembered piece were encoded next; false if it must really be.
  virtual bool go_on(std::span<const TokenId>, TokenId, EncoderScratch&) const { return true; }

  // Every merge, derived ones included, by ascending rank; empty for models without merges.
  virtual std::vector<MergeRule> merges() const { return {}; }

  // The merges that lead from the smallest symbols of a piece to what merging makes of it, in order.
  virtual std::vector<MergeStep> merge_steps(std::string_view) const { return {}; }

  // Writes the tables that take time to make; nothing where they are made anew.
  virtual void store(SectionWriter&) const {}
};

}  // namespace pyllm::tokenizers
