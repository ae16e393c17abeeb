// SentencePiece's model files: a protobuf message ModelProto, read by hand and never past its end.
//
//   message   field, field, ...     field   key (number << 3 | wire type), value
//   wire      0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pyllm::tokenizers {

// Numbers as in sentencepiece_model.proto.
enum class PieceType : uint32_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};
enum class SentencePieceKind : uint32_t { unigram = 1, bpe = 2, word = 3, character = 4 };

struct SentencePieceModel {
  std::vector<std::string_view> pieces;
  std::vector<float> scores;
  std::vector<uint32_t> types;
  SentencePieceKind kind = SentencePieceKind::unigram;
  bool byte_fallback = false;
  bool treat_whitespace_as_suffix = false;
  int64_t bos_id = 1, eos_id = 2;
  std::string_view unknown_surface = " \xE2\x81\x87 ";
  std::string_view charsmap;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
  bool has_denormalizer = false;
};

// The views live as long as the bytes. Throws std::invalid_argument for a damaged file.
SentencePieceModel read_sentencepiece_model(std::string_view bytes);

}  // namespace pyllm::tokenizers
