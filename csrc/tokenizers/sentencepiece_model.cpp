#include "sentencepiece_model.h"

#include <bit>
#include <stdexcept>

namespace pyllm::tokenizers {
namespace {

constexpr size_t kMostPieces = 1 << 22;

[[noreturn]] void fail(const char* what) {
  throw std::invalid_argument(std::string("not a SentencePiece model: ") + what);
}

struct Field {
  uint64_t number = 0;
  uint64_t varint = 0;     // wire type 0, and 5 as bits
  std::string_view bytes;  // wire type 2
  uint32_t wire = 0;

  bool flag() const { return varint != 0; }
  float as_float() const {
    if (wire != 5) fail("a score is not a float");
    return std::bit_cast<float>(static_cast<uint32_t>(varint));
  }
};

class MessageReader {
 public:
  explicit MessageReader(std::string_view bytes) : left_(bytes) {}

  // False at the end of the message.
  bool next(Field& field) {
    if (left_.empty()) return false;
    const uint64_t key = read_varint();
    field = {key >> 3, 0, {}, static_cast<uint32_t>(key & 7)};
    switch (field.wire) {
      case 0:
        field.varint = read_varint();
        break;
      case 1:
        field.varint = read_fixed(8);
        break;
      case 2:
        field.bytes = read_bytes(read_varint());
        break;
      case 5:
        field.varint = read_fixed(4);
        break;
      default:
        fail("an unknown wire type");
    }
    return true;
  }

 private:
  uint64_t read_varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(read_bytes(1)[0]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    fail("a number does not end");
  }

  uint64_t read_fixed(size_t size) {
    const std::string_view bytes = read_bytes(size);
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i) value |= uint64_t{static_cast<unsigned char>(bytes[i])} << 8 * i;
    return value;
  }

  std::string_view read_bytes(uint64_t size) {
    if (size > left_.size()) fail("it is cut");
    const std::string_view bytes = left_.substr(0, static_cast<size_t>(size));
    left_.remove_prefix(static_cast<size_t>(size));
    return bytes;
  }

  std::string_view left_;
};

void read_piece(std::string_view bytes, SentencePieceModel& model) {
  std::string_view piece;
  float score = 0;
  auto type = static_cast<uint32_t>(PieceType::normal);
  MessageReader reader(bytes);
  for (Field field; reader.next(field);) {
    if (field.number == 1) piece = field.bytes;
    if (field.number == 2) score = field.as_float();
    if (field.number == 3) type = static_cast<uint32_t>(field.varint);
  }
  if (type < 1 || type > 6) fail("a piece of unknown type");
  if (model.pieces.size() == kMostPieces) fail("too many pieces");
  model.pieces.push_back(piece);
  model.scores.push_back(score);
  model.types.push_back(type);
}

void read_trainer(std::string_view bytes, SentencePieceModel& model) {
  MessageReader reader(bytes);
  for (Field field; reader.next(field);) {
    switch (field.number) {
      case 3:
        model.kind = static_cast<SentencePieceKind>(field.varint);
        break;
      case 24:
        model.treat_whitespace_as_suffix = field.flag();
        break;
      case 35:
        model.byte_fallback = field.flag();
        break;
      case 41:
        model.bos_id = static_cast<int64_t>(field.varint);
        break;
      case 42:
        model.eos_id = static_cast<int64_t>(field.varint);
        break;
      case 44:
        model.unknown_surface = field.bytes;
        break;
      default:
        break;
    }
  }
}

void read_normalizer(std::string_view bytes, SentencePieceModel& model) {
  MessageReader reader(bytes);
  for (Field field; reader.next(field);) {
    switch (field.number) {
      case 2:
        model.charsmap = field.bytes;
        break;
      case 3:
        model.add_dummy_prefix = field.flag();
        break;
      case 4:
        model.remove_extra_whitespaces = field.flag();
        break;
      case 5:
        model.escape_whitespaces = field.flag();
        break;
      default:
        break;
    }
  }
}

bool has_charsmap(std::string_view bytes) {
  MessageReader reader(bytes);
  for (Field field; reader.next(field);) {
    if (field.number == 2 && !field.bytes.empty()) return true;
  }
  return false;
}

}  // namespace

SentencePieceModel read_sentencepiece_model(std::string_view bytes) {
  SentencePieceModel model;
  MessageReader reader(bytes);
  for (Field field; reader.next(field);) {
    switch (field.number) {
      case 1:
        read_piece(field.bytes, model);
        break;
      case 2:
        read_trainer(field.bytes, model);
        break;
      case 3:
        read_normalizer(field.bytes, model);
        break;
      case 5:
        model.has_denormalizer = has_charsmap(field.bytes);
        break;
      default:
        break;
    }
  }
  if (model.pieces.empty()) fail("it has no pieces");
  return model;
}

}  // namespace pyllm::tokenizers
