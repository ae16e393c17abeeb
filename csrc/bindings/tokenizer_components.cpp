#include "tokenizer_components.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <stdexcept>

#include "../tokenizers/byte_pair_encoder.h"
#include "../tokenizers/character_pair_encoder.h"
#include "../tokenizers/sentencepiece_model.h"
#include "../tokenizers/text_properties.h"
#include "../tokenizers/tokenizer.h"
#include "../tokenizers/unigram_encoder.h"
#include "../tokenizers/word_piece_encoder.h"

namespace pyllm::tokenizers {

namespace {

using ModelPointer = std::shared_ptr<const Model>;

// Tokens by id, and which ids have one. The views live as long as the tokens.
std::pair<std::vector<std::string_view>, std::vector<bool>> views_by_id(const TokenBytes& tokens) {
  std::vector<std::string_view> views(tokens.size());
  std::vector<bool> present(tokens.size());
  for (TokenId id = 0; id < tokens.size(); ++id) {
    views[id] = tokens[id];
    present[id] = tokens.contains(id);
  }
  return {std::move(views), std::move(present)};
}

// (n, 3) ids of left, right and merged, by rank.
std::vector<MergeRule> rules_of(const py::object& merges) {
  const auto rows = merges.cast<py::array_t<uint32_t, py::array::c_style | py::array::forcecast>>();
  if (rows.ndim() != 2 || rows.shape(1) != 3) {
    throw std::invalid_argument("merges: expected an array of shape (n, 3)");
  }
  const auto at = rows.unchecked<2>();
  std::vector<MergeRule> rules;
  rules.reserve(static_cast<size_t>(rows.shape(0)));
  for (py::ssize_t i = 0; i < rows.shape(0); ++i) {
    rules.push_back({at(i, 0), at(i, 1), at(i, 2), static_cast<uint32_t>(i)});
  }
  return rules;
}

std::vector<bool> all_but(size_t count, const std::vector<TokenId>& ids, const char* what) {
  std::vector<bool> flags(count, true);
  for (const TokenId id : ids) {
    if (id >= count)
      throw std::invalid_argument(std::string(what) + ": id " + std::to_string(id) + " has no token");
    flags[id] = false;
  }
  return flags;
}

void check_ids(const std::vector<TokenId>& ids, size_t count, const char* what) { all_but(count, ids, what); }

// bytes: the ids of the 256 byte tokens, kNoToken where there is none, or empty.
Fallback fallback_of(std::optional<TokenId> unknown, bool fuse_unknown, const std::vector<TokenId>& bytes,
                     size_t count) {
  Fallback fallback;
  if (unknown) check_ids({*unknown}, count, "unknown");
  fallback.unknown = unknown.value_or(kNoToken);
  fallback.fuse_unknown = fuse_unknown;
  fallback.has_bytes = !bytes.empty();
  if (bytes.empty()) return fallback;
  if (bytes.size() != fallback.bytes.size()) throw std::invalid_argument("bytes: expected 256 ids");
  for (const TokenId id : bytes) {
    if (id != kNoToken) check_ids({id}, count, "bytes");
  }
  std::copy(bytes.begin(), bytes.end(), fallback.bytes.begin());
  return fallback;
}

template <typename Encoder, typename Definition>
ModelPointer build(const Definition& definition) {
  const py::gil_scoped_release release;
  return std::make_shared<const Encoder>(definition);
}

// merges None: ranked by id. hidden: ids that text never gives.
ModelPointer byte_pairs(const TokenBytes& tokens, const py::object& merges, bool ignore_merges,
                        const std::vector<TokenId>& hidden) {
  BytePairDefinition definition;
  std::tie(definition.tokens, definition.present) = views_by_id(tokens);
  definition.mergeable = all_but(definition.tokens.size(), hidden, "hidden");
  definition.ignore_merges = ignore_merges;
  definition.ranked_by_id = merges.is_none();
  if (!merges.is_none()) definition.merges = rules_of(merges);
  return build<BytePairEncoder>(definition);
}

// merges None: by scores.
ModelPointer character_pairs(const TokenBytes& tokens, const py::object& merges,
                             const std::vector<float>& scores, bool ignore_merges,
                             const std::vector<TokenId>& hidden, const std::vector<TokenId>& frozen,
                             std::optional<TokenId> unknown, bool fuse_unknown,
                             const std::vector<TokenId>& bytes) {
  CharacterPairDefinition definition;
  definition.vocabulary = tokens;
  const size_t count = tokens.size();
  definition.usable = all_but(count, hidden, "hidden");
  if (merges.is_none()) {
    definition.scores = scores;
  } else {
    definition.merges = rules_of(merges);
  }
  check_ids(frozen, count, "frozen");
  definition.frozen = frozen;
  definition.fallback = fallback_of(unknown, fuse_unknown, bytes, count);
  definition.ignore_merges = ignore_merges;
  return build<CharacterPairEncoder>(definition);
}

ModelPointer unigram(const TokenBytes& tokens, const std::vector<double>& scores,
                     const std::vector<TokenId>& hidden, const std::vector<TokenId>& user_defined,
                     std::pair<double, double> score_range, std::optional<TokenId> unknown, bool fuse_unknown,
                     const std::vector<TokenId>& bytes, bool double_precision) {
  UnigramDefinition definition;
  std::vector<bool> present;
  std::tie(definition.tokens, present) = views_by_id(tokens);
  const size_t count = definition.tokens.size();
  definition.usable = all_but(count, hidden, "hidden");
  definition.scores = scores;
  if (scores.size() != count) throw std::invalid_argument("scores: expected one for every token");
  check_ids(user_defined, count, "user_defined");
  definition.user_defined = user_defined;
  std::tie(definition.lowest_score, definition.highest_score) = score_range;
  definition.fallback = fallback_of(unknown, fuse_unknown, bytes, count);
  definition.arithmetic = double_precision ? UnigramArithmetic::float64 : UnigramArithmetic::float32;
  return build<UnigramEncoder>(definition);
}

ModelPointer word_piece(const TokenBytes& tokens, const std::vector<TokenId>& hidden,
                        const std::string& prefix, TokenId unknown, size_t max_characters) {
  WordPieceDefinition definition;
  std::vector<bool> present;
  std::tie(definition.tokens, present) = views_by_id(tokens);
  definition.usable = all_but(definition.tokens.size(), hidden, "hidden");
  for (size_t id = 0; id < present.size(); ++id) {
    if (!present[id]) definition.usable[id] = false;
  }
  definition.prefix = prefix;
  definition.unknown = unknown;
  definition.max_characters = max_characters;
  return build<WordPieceEncoder>(definition);
}

// The same models from the tables in our own file form.

ModelPointer load_character_pairs(const SectionReader& file, const TokenBytes& tokens,
                                  const std::vector<float>& scores, bool ignore_merges,
                                  std::optional<TokenId> unknown, bool fuse_unknown,
                                  const std::vector<TokenId>& bytes) {
  CharacterPairDefinition definition;
  definition.vocabulary = tokens;
  definition.scores = scores;
  definition.fallback = fallback_of(unknown, fuse_unknown, bytes, tokens.size());
  definition.ignore_merges = ignore_merges;
  const py::gil_scoped_release release;
  return std::make_shared<const CharacterPairEncoder>(definition, file);
}

ModelPointer load_unigram(const SectionReader& file, const TokenBytes& tokens,
                          const std::vector<TokenId>& hidden, double lowest_score,
                          std::optional<TokenId> unknown, bool fuse_unknown,
                          const std::vector<TokenId>& bytes, bool double_precision) {
  UnigramDefinition definition;
  definition.tokens = views_by_id(tokens).first;
  definition.usable = all_but(tokens.size(), hidden, "hidden");
  definition.lowest_score = lowest_score;
  definition.fallback = fallback_of(unknown, fuse_unknown, bytes, tokens.size());
  definition.arithmetic = double_precision ? UnigramArithmetic::float64 : UnigramArithmetic::float32;
  return std::make_shared<const UnigramEncoder>(definition, file);
}

ModelPointer load_word_piece(const SectionReader& file, const TokenBytes& tokens, const std::string& prefix,
                             TokenId unknown, size_t max_characters) {
  WordPieceDefinition definition;
  definition.prefix = prefix;
  definition.unknown = unknown;
  definition.max_characters = max_characters;
  return std::make_shared<const WordPieceEncoder>(definition, tokens.size(), file);
}

TextPatternPointer pattern_of(const std::string& kind, const std::string& pattern) {
  if (kind == "String") return make_literal(pattern);
  if (kind == "Regex") return make_expression(pattern);
  throw std::invalid_argument("pattern: expected String or Regex, got " + kind);
}

SplitBehavior behavior_of(const std::string& name) {
  constexpr std::pair<const char*, SplitBehavior> kNames[] = {
      {"Removed", SplitBehavior::removed},
      {"Isolated", SplitBehavior::isolated},
      {"MergedWithPrevious", SplitBehavior::merged_with_previous},
      {"MergedWithNext", SplitBehavior::merged_with_next},
      {"Contiguous", SplitBehavior::contiguous},
  };
  for (const auto& [known, behavior] : kNames) {
    if (name == known) return behavior;
  }
  throw std::invalid_argument("behavior: unknown behavior '" + name + "'");
}

NormalizationForm form_of(const std::string& name) {
  if (name == "NFC") return kNfc;
  if (name == "NFD") return kNfd;
  if (name == "NFKC") return kNfkc;
  if (name == "NFKD") return kNfkd;
  throw std::invalid_argument("unknown normalization form '" + name + "'");
}

PrependScheme scheme_of(const std::string& name) {
  if (name == "always") return PrependScheme::always;
  if (name == "first") return PrependScheme::first;
  if (name == "never") return PrependScheme::never;
  throw std::invalid_argument("prepend_scheme: unknown scheme '" + name + "'");
}

// The fields of a SentencePiece file as a dict.
py::dict sentencepiece_fields(const py::bytes& file) {
  const SentencePieceModel model = read_sentencepiece_model(std::string_view(file));
  py::list pieces;
  for (const std::string_view piece : model.pieces) pieces.append(py::bytes(piece.data(), piece.size()));
  py::dict fields;
  fields["pieces"] = pieces;
  fields["scores"] = py::array_t<float>(static_cast<py::ssize_t>(model.scores.size()), model.scores.data());
  fields["types"] = py::array_t<uint32_t>(static_cast<py::ssize_t>(model.types.size()), model.types.data());
  fields["model_type"] = static_cast<uint32_t>(model.kind);
  fields["byte_fallback"] = model.byte_fallback;
  fields["treat_whitespace_as_suffix"] = model.treat_whitespace_as_suffix;
  fields["bos_id"] = model.bos_id;
  fields["eos_id"] = model.eos_id;
  fields["unk_surface"] = py::bytes(model.unknown_surface.data(), model.unknown_surface.size());
  fields["charsmap"] = py::bytes(model.charsmap.data(), model.charsmap.size());
  fields["add_dummy_prefix"] = model.add_dummy_prefix;
  fields["remove_extra_whitespaces"] = model.remove_extra_whitespaces;
  fields["escape_whitespaces"] = model.escape_whitespaces;
  fields["has_denormalizer"] = model.has_denormalizer;
  return fields;
}

void bind_models(py::module_& m) {
  m.def("sentencepiece_fields", &sentencepiece_fields, py::arg("file"));
  py::class_<Model, std::shared_ptr<Model>>(m, "Model");
  m.def("byte_pairs", &byte_pairs, py::arg("tokens"), py::arg("merges"), py::arg("ignore_merges"),
        py::arg("hidden"));
  m.def("character_pairs", &character_pairs, py::arg("tokens"), py::arg("merges"), py::arg("scores"),
        py::arg("ignore_merges"), py::arg("hidden"), py::arg("frozen"), py::arg("unknown"),
        py::arg("fuse_unknown"), py::arg("bytes"));
  m.def("unigram", &unigram, py::arg("tokens"), py::arg("scores"), py::arg("hidden"), py::arg("user_defined"),
        py::arg("score_range"), py::arg("unknown"), py::arg("fuse_unknown"), py::arg("bytes"),
        py::arg("double_precision"));
  m.def("load_character_pairs", &load_character_pairs, py::arg("file"), py::arg("tokens"), py::arg("scores"),
        py::arg("ignore_merges"), py::arg("unknown"), py::arg("fuse_unknown"), py::arg("bytes"));
  m.def("load_unigram", &load_unigram, py::arg("file"), py::arg("tokens"), py::arg("hidden"),
        py::arg("lowest_score"), py::arg("unknown"), py::arg("fuse_unknown"), py::arg("bytes"),
        py::arg("double_precision"));
  m.def("load_word_piece", &load_word_piece, py::arg("file"), py::arg("tokens"), py::arg("prefix"),
        py::arg("unknown"), py::arg("max_characters"));
  m.def("word_piece", &word_piece, py::arg("tokens"), py::arg("hidden"), py::arg("prefix"),
        py::arg("unknown"), py::arg("max_characters"));
}

// One method for every step; a list is used up by the tokenizer that takes it.
void bind_normalizers(py::module_& m) {
  const auto add = [](NormalizerList& list, NormalizerStep step) { list.steps.push_back(std::move(step)); };
  py::class_<NormalizerList>(m, "NormalizerList")
      .def(py::init<>())
      .def("form",
           [=](NormalizerList& list, const std::string& name) { add(list, make_form(form_of(name))); })
      .def("lowercase", [=](NormalizerList& list) { add(list, make_lowercase()); })
      .def("strip_accents", [=](NormalizerList& list) { add(list, make_strip_accents()); })
      .def("strip", [=](NormalizerList& list, bool left, bool right) { add(list, make_strip(left, right)); })
      .def("prepend",
           [=](NormalizerList& list, std::string text) { add(list, make_prepend(std::move(text))); })
      .def("replace",
           [=](NormalizerList& list, const std::string& kind, const std::string& pattern,
               std::string content) {
             add(list, make_replace(pattern_of(kind, pattern), std::move(content)));
           })
      .def("precompiled",
           [=](NormalizerList& list, const py::bytes& charsmap) {
             add(list, make_precompiled(std::string_view(charsmap)));
           })
      .def("bert",
           [=](NormalizerList& list, bool clean_text, bool chinese, bool strip_accents, bool lowercase) {
             add(list, make_bert_normalizer({clean_text, chinese, strip_accents, lowercase}));
           })
      .def(
          "sentencepiece",
          [=](NormalizerList& list, const py::bytes& charsmap, bool add_dummy_prefix,
              bool remove_extra_whitespaces, bool escape_whitespaces, bool treat_whitespace_as_suffix,
              std::vector<std::string> user_defined) {
            add(list,
                make_sentencepiece({charsmap, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces,
                                    treat_whitespace_as_suffix, std::move(user_defined)}));
          },
          py::arg("charsmap"), py::arg("add_dummy_prefix"), py::arg("remove_extra_whitespaces"),
          py::arg("escape_whitespaces"), py::arg("treat_whitespace_as_suffix"), py::arg("user_defined"))
      .def("apply", [](const NormalizerList& list, const py::object& text) {
        AlignedText result = AlignedText::of(TextView(text).get(), 0, false);
        for (const NormalizerStep& step : list.steps) result = step->apply(result);
        return py::bytes(result.text);
      });
}

void bind_pretokenizers(py::module_& m) {
  const auto add = [](Pretokenizer& list, PretokenizerStepPointer step) {
    list.steps.push_back(std::move(step));
  };
  const auto split = [=](Pretokenizer& list, bool (*predicate)(uint32_t), const std::string& behavior) {
    add(list, make_split(make_character_pattern(predicate), behavior_of(behavior), false));
  };
  py::class_<Pretokenizer>(m, "Pretokenizer")
      .def(py::init<>())
      .def("scanner",
           [](Pretokenizer& list, const std::string& grammar) { list.scanner = find_pretokenizer(grammar); })
      .def("split",
           [=](Pretokenizer& list, const std::string& kind, const std::string& pattern,
               const std::string& behavior, bool invert) {
             add(list, make_split(pattern_of(kind, pattern), behavior_of(behavior), invert));
           })
      .def("split_whitespace", [=](Pretokenizer& list) { split(list, is_whitespace, "Removed"); })
      .def("split_punctuation",
           [=](Pretokenizer& list, const std::string& behavior) {
             split(list, [](uint32_t c) { return has_property(c, TextProperty::punctuation); }, behavior);
           })
      .def("split_digits",
           [=](Pretokenizer& list, const std::string& behavior) {
             split(list, [](uint32_t c) { return has_property(c, TextProperty::numeric); }, behavior);
           })
      .def("metaspace",
           [=](Pretokenizer& list, std::string marker, const std::string& scheme, bool splits) {
             add(list, make_metaspace(std::move(marker), scheme_of(scheme), splits));
           })
      .def("prefix_space", [=](Pretokenizer& list) { add(list, make_prefix_space()); })
      .def("apply", [](const Pretokenizer& list, const py::object& text) {
        Pieces pieces{AlignedText::of(TextView(text).get(), 0, false), {}, true};
        pieces.parts.push_back({0, pieces.text.text.size()});
        for (const PretokenizerStepPointer& step : list.steps) step->apply(pieces);
        py::list parts;
        for (const Span& part : pieces.parts) {
          parts.append(py::bytes(pieces.text.text.substr(part.begin, part.end - part.begin)));
        }
        return parts;
      });
}

}  // namespace

void bind_components(py::module_& m) {
  bind_models(m);
  bind_normalizers(m);
  bind_pretokenizers(m);
}

}  // namespace pyllm::tokenizers
