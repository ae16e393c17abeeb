// Damaged files through every reader of the tokenizer core that meets bytes from outside, and through the
// tokenizers that come of them. libFuzzer's entry point; without libFuzzer, driver.cpp calls it.
//
// The first byte of an input names the reader; what it refuses by an exception is refused.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tokenizers/byte_pair_encoder.h"
#include "tokenizers/character_pair_encoder.h"
#include "tokenizers/decoding_tables.h"
#include "tokenizers/regular_expression.h"
#include "tokenizers/sections.h"
#include "tokenizers/sentencepiece_model.h"
#include "tokenizers/tokenizer.h"
#include "tokenizers/tokenizer_json.h"
#include "tokenizers/unigram_encoder.h"
#include "tokenizers/word_piece_encoder.h"

namespace {

using namespace pyllm::tokenizers;

constexpr const char* kTexts[] = {
    "", "the quick brown fox", "\xE2\x96\x81the  \xE4\xB8\x96\xE7\x95\x8C <s><u>\n",
    "\xFF\xF0\x9F\xA4\x97 e\xCC\x81 \xEF\xAC\x81 0123",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};

void exercise(TokenizerDefinition definition) {
  const Tokenizer tokenizer(std::move(definition));
  const EncodeOptions options{TokenFilter(tokenizer.added_tokens().size(), true), {}, {}};
  for (const std::string text : kTexts) {
    EncodeOutput output, with_offsets;
    EncodeTrace trace;
    with_offsets.with_offsets = true;
    with_offsets.trace = &trace;
    tokenizer.encode(text, options, output);
    tokenizer.encode(text, options, with_offsets);
    if (output.ids != with_offsets.ids) std::abort();
    for (const EncodeTrace::Part& piece : trace.pieces) tokenizer.model().merge_steps(piece.text);
    DecodedBytes decoded;
    tokenizer.decoder().decode(std::span<const TokenId>(output.ids), true, false, decoded);
  }
}

std::vector<std::string_view> views_of(const TokenBytes& tokens) {
  std::vector<std::string_view> views;
  for (TokenId id = 0; id < tokens.size(); ++id) views.push_back(tokens[id]);
  return views;
}

std::vector<bool> present_of(const TokenBytes& tokens) {
  std::vector<bool> present;
  for (TokenId id = 0; id < tokens.size(); ++id) present.push_back(tokens.contains(id));
  return present;
}

// What all kinds of models are made from here.
struct Parts {
  TokenBytes tokens;
  std::vector<float> scores;
  std::vector<MergeRule> merges;
  uint8_t choice;  // options by its bits
};

std::shared_ptr<const Model> byte_pairs(const Parts& parts) {
  BytePairDefinition definition;
  definition.tokens = views_of(parts.tokens);
  definition.present = present_of(parts.tokens);
  definition.mergeable.assign(definition.tokens.size(), true);
  definition.merges = parts.merges;
  definition.ranked_by_id = (parts.choice & 1) != 0;
  definition.ignore_merges = (parts.choice & 2) != 0;
  return std::make_shared<const BytePairEncoder>(definition);
}

CharacterPairDefinition character_pair_definition(const Parts& parts) {
  CharacterPairDefinition definition;
  definition.vocabulary = parts.tokens;
  definition.usable.assign(parts.tokens.size(), true);
  if (parts.merges.empty()) definition.scores = parts.scores;
  definition.merges = parts.merges;
  definition.ignore_merges = (parts.choice & 2) != 0;
  if ((parts.choice & 4) != 0 && parts.tokens.size() > 0) definition.fallback.unknown = 0;
  return definition;
}

UnigramDefinition unigram_definition(const Parts& parts) {
  UnigramDefinition definition;
  definition.tokens = views_of(parts.tokens);
  definition.usable = present_of(parts.tokens);
  definition.scores.assign(parts.scores.begin(), parts.scores.end());
  if (!definition.tokens.empty()) definition.fallback.unknown = 0;
  definition.arithmetic = (parts.choice & 1) != 0 ? UnigramArithmetic::float32 : UnigramArithmetic::float64;
  return definition;
}

void use(const std::shared_ptr<const Model>& model, const Parts& parts, std::vector<NormalizerStep> steps) {
  TokenizerDefinition definition;
  definition.model = model;
  definition.decoding = {parts.tokens, {}};
  definition.normalizers = std::move(steps);
  if ((parts.choice & 8) != 0) {
    definition.pretokenizer.steps.push_back(make_metaspace("\xE2\x96\x81", PrependScheme::always, true));
  } else if ((parts.choice & 16) != 0) {
    definition.pretokenizer.scanner = find_pretokenizer("cl100k");
  }
  exercise(std::move(definition));
}

std::vector<MergeRule> rules_of(const std::vector<TokenId>& flat) {
  std::vector<MergeRule> rules;
  for (size_t i = 0; i + 2 < flat.size(); i += 3) {
    rules.push_back({flat[i], flat[i + 1], flat[i + 2], static_cast<uint32_t>(rules.size())});
  }
  return rules;
}

void read_json(std::string_view bytes, uint8_t choice) {
  const TokenizerJson document = read_tokenizer_json(bytes);
  if (document.vocabulary == nullptr) return;
  Parts parts{document.vocabulary->tokens((choice & 32) != 0, {}), {}, {}, choice};
  if (document.merges) parts.merges = rules_of(*document.merges);
  if (document.scores) {
    parts.scores.assign(document.scores->begin(), document.scores->end());
    use(std::make_shared<const UnigramEncoder>(unigram_definition(parts)), parts, {});
  } else if ((choice & 32) != 0) {
    use(byte_pairs(parts), parts, {});
  } else if ((choice & 64) != 0 && parts.tokens.size() > 0) {
    WordPieceDefinition definition;
    definition.tokens = views_of(parts.tokens);
    definition.usable = present_of(parts.tokens);
    definition.unknown = 0;
    use(std::make_shared<const WordPieceEncoder>(definition), parts, {});
  } else {
    use(std::make_shared<const CharacterPairEncoder>(character_pair_definition(parts)), parts, {});
  }
}

void read_sentencepiece(std::string_view bytes, uint8_t choice) {
  const SentencePieceModel model = read_sentencepiece_model(bytes);
  Parts parts{
      TokenBytes(model.pieces, std::vector<bool>(model.pieces.size(), true)), model.scores, {}, choice};
  SentencePieceOptions options;
  options.charsmap = model.charsmap;
  options.add_dummy_prefix = model.add_dummy_prefix;
  options.remove_extra_whitespaces = model.remove_extra_whitespaces;
  options.escape_whitespaces = model.escape_whitespaces;
  options.treat_whitespace_as_suffix = model.treat_whitespace_as_suffix;
  options.user_defined = {"<u>"};
  std::vector<NormalizerStep> steps;
  steps.push_back((choice & 64) != 0 ? make_precompiled(model.charsmap) : make_sentencepiece(options));
  parts.choice &= 7;
  if (model.kind == SentencePieceKind::bpe) {
    use(std::make_shared<const CharacterPairEncoder>(character_pair_definition(parts)), parts,
        std::move(steps));
  } else {
    use(std::make_shared<const UnigramEncoder>(unigram_definition(parts)), parts, std::move(steps));
  }
}

// Sections as name (32 bytes), size (4 bytes), bytes. They get their checksums here, so that damage reaches
// the readers of sections and not only the comparison of checksums.
std::string own_file(std::string_view bytes) {
  SectionWriter writer;
  while (bytes.size() >= 36) {
    const std::string name(bytes.data(), strnlen(bytes.data(), 31));
    uint32_t size = 0;
    std::memcpy(&size, bytes.data() + 32, sizeof(size));
    bytes.remove_prefix(36);
    const std::string_view content = bytes.substr(0, size);
    bytes.remove_prefix(content.size());
    try {
      writer.text(name, content);
    } catch (const std::logic_error&) {  // the name is taken
    }
  }
  return writer.finish();
}

void read_own_file(std::string_view bytes, uint8_t choice) {
  const std::string content = own_file(bytes);
  // Aligned as a mapped file is, and not a byte larger.
  const auto size = content.size();
  const std::shared_ptr<char> memory(static_cast<char*>(std::aligned_alloc(64, size)), &std::free);
  std::copy(content.begin(), content.end(), memory.get());
  const SectionReader file({memory.get(), size}, memory);
  Parts parts{TokenBytes::load(file, "tokens"), {}, {}, choice};
  if (parts.tokens.size() > 5000) return;
  TokenizerDefinition definition;
  definition.added_tokens = load_added(file);
  if (file.has("added.trie")) definition.added_trie = load_added_trie(definition.added_tokens, file);
  definition.decoding = file.has("decoding.entries") ? load_decoding(file) : DecodingTables{parts.tokens, {}};
  if (file.has("scores") && !file.has("model.scores")) {
    for (const float score : file.array<float>("scores")) parts.scores.push_back(score);
  }
  if (file.has("merges")) {
    const FrozenArray<uint32_t> merges = file.array<uint32_t>("merges");
    parts.merges = rules_of({merges.begin(), merges.end()});
  }
  if (file.has("model.merge_table")) {
    definition.model = std::make_shared<const CharacterPairEncoder>(character_pair_definition(parts), file);
  } else if (file.has("model.scores")) {
    definition.model = std::make_shared<const UnigramEncoder>(unigram_definition(parts), file);
  } else if (file.has("model.trie")) {
    WordPieceDefinition pieces;
    pieces.unknown = 0;
    definition.model = std::make_shared<const WordPieceEncoder>(pieces, parts.tokens.size(), file);
    definition.pretokenizer.steps.push_back(make_prefix_space());
  } else {
    definition.model = byte_pairs(parts);
    definition.pretokenizer.scanner = find_pretokenizer("gpt2");
  }
  exercise(std::move(definition));
}

// The file as it is: header, directory and checksums.
void read_sections(std::string_view bytes, uint8_t) {
  const auto size = std::max<size_t>(64, (bytes.size() + 63) / 64 * 64);
  const std::shared_ptr<char> memory(static_cast<char*>(std::aligned_alloc(64, size)), &std::free);
  std::copy(bytes.begin(), bytes.end(), memory.get());
  const SectionReader file({memory.get(), bytes.size()}, memory);
  for (const char* name : {"tokens", "added.contents", "decoding"}) TokenBytes::load(file, name);
}

void read_expression(std::string_view bytes, uint8_t) {
  if (bytes.size() > 200) return;  // larger ones are a matter of time, which tests measure
  const RegularExpression expression(bytes);
  std::vector<Span> matches;
  for (const char* text : kTexts) expression.find_all(text, matches);
}

struct Reader {
  const char* name;
  void (*read)(std::string_view bytes, uint8_t choice);
};
constexpr Reader kReaders[] = {{"json", read_json},
                               {"sentencepiece", read_sentencepiece},
                               {"own", read_own_file},
                               {"sections", read_sections},
                               {"expression", read_expression}};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  // A block of exactly this size, so that a read past its end is seen.
  const std::vector<char> bytes(data + 2, data + size);
  try {
    kReaders[data[0] % std::size(kReaders)].read({bytes.data(), bytes.size()}, data[1]);
  } catch (const std::logic_error&) {  // invalid_argument, length_error, out_of_range: refused
  }
  return 0;
}
