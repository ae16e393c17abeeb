#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "../tokenizers/byte_alphabet.h"
#include "../tokenizers/decoding_tables.h"
#include "../tokenizers/spellings.h"
#include "../tokenizers/tokenizer_json.h"
#include "tokenizer_components.h"

namespace pyllm::tokenizers {
namespace {

py::bytes bytes_of(std::string_view text) { return {text.data(), text.size()}; }

// From bytes by id; None: the id has no token.
TokenBytes tokens_of(const py::iterable& tokens) {
  TokenBytesBuilder builder;
  for (const py::handle token : tokens) {
    token.is_none() ? builder.add_absent() : builder.add(TextView(token).get());
  }
  return builder.finish();
}

py::object token_at(const TokenBytes& tokens, py::ssize_t index) {
  const auto size = static_cast<py::ssize_t>(tokens.size());
  const py::ssize_t id = index < 0 ? index + size : index;
  if (id < 0 || id >= size) throw py::index_error("tokens: no id " + std::to_string(index));
  const auto token = static_cast<TokenId>(id);
  return tokens.contains(token) ? py::object(bytes_of(tokens[token])) : py::none();
}

py::array_t<TokenId> merge_rows(const std::vector<TokenId>& flat) {
  return py::array_t<TokenId>({flat.size() / 3, size_t{3}}, flat.data());
}

// entries: "left right" by rank. Throws at the first that does not join two tokens to a third.
py::array_t<TokenId> merges_of(const Spellings& spellings, const py::list& entries, const std::string& what) {
  MergeReader merges(spellings, what);
  for (const py::handle entry : entries) merges.add(TextView(entry).get());
  return merge_rows(merges.take());
}

std::shared_ptr<const Spellings> spellings_of(const py::list& texts) {
  return std::make_shared<const Spellings>(tokens_of(texts), std::vector<TokenId>());
}

// -> (the rest of the document, Spellings or None, scores or None, (n, 3) merges or None)
py::tuple split_tokenizer_json(const py::bytes& file) {
  const auto text = static_cast<std::string_view>(file);
  TokenizerJson document;
  {
    const py::gil_scoped_release release;
    document = read_tokenizer_json(text);
  }
  py::object scores = py::none(), merges = py::none();
  if (document.scores) {
    scores = py::array_t<double>(static_cast<py::ssize_t>(document.scores->size()), document.scores->data());
  }
  if (document.merges) merges = merge_rows(*document.merges);
  return py::make_tuple(bytes_of(document.rest), document.vocabulary, scores, merges);
}

std::shared_ptr<const Spellings> vocabulary_json(const py::bytes& file) {
  JsonReader reader{static_cast<std::string_view>(file)};
  const std::shared_ptr<const Spellings> spellings = read_vocabulary(reader);
  reader.finish();
  return spellings;
}

std::optional<TokenId> id_of(const Spellings& spellings, const py::str& spelling) {
  const TokenId entry = spellings.find(TextView(spelling).get());
  return entry == kNoToken ? std::nullopt : std::optional(spellings.id(entry));
}

void bind_tokens(py::module_& m) {
  py::class_<TokenBytes>(m, "Tokens", "Bytes by id, or None: a sequence that does not change.")
      .def(py::init(&tokens_of), py::arg("tokens"))
      .def("__len__", &TokenBytes::size)
      .def("__getitem__", &token_at)
      .def("replaced", &replaced, py::arg("from"), py::arg("to"))
      .def("bytes_of_fallback", &bytes_of_fallback)
      .def("prefixed", &prefixed, py::arg("text"))
      .def("stripped", &stripped, py::arg("prefix"), py::arg("repeatedly"))
      .def("continued_words", &continued_words, py::arg("prefix"))
      .def("cleaned_up", &cleaned_up)
      .def("with_token", &with_token, py::arg("id"), py::arg("bytes"))
      .def(py::pickle(
          [](const TokenBytes& tokens) {
            py::list list;
            for (size_t id = 0; id < tokens.size(); ++id) {
              list.append(token_at(tokens, static_cast<py::ssize_t>(id)));
            }
            return list;
          },
          [](const py::list& list) { return tokens_of(list); }));
}

}  // namespace

void bind_vocabulary(py::module_& m) {
  m.attr("most_ids") = kMostIds;
  bind_tokens(m);
  py::class_<Spellings, std::shared_ptr<Spellings>>(m, "Spellings")
      .def(py::init(
               [](const py::list& texts) { return std::const_pointer_cast<Spellings>(spellings_of(texts)); }),
           py::arg("texts"))
      .def("__len__", &Spellings::size)
      .def("get", &id_of, py::arg("spelling"))
      .def_property_readonly("has_doubles", &Spellings::has_doubles)
      .def("tokens", &Spellings::tokens, py::arg("byte_level"), py::arg("added"))
      .def("merges", &merges_of, py::arg("entries"), py::arg("what"));
  m.def("split_tokenizer_json", &split_tokenizer_json, py::arg("file"));
  m.def("vocabulary_json", &vocabulary_json, py::arg("file"));
  m.def("spell", [](const py::bytes& token) {
    std::string spelling;
    append_spelled(static_cast<std::string_view>(token), spelling);
    return spelling;
  });
  m.def("unspell", [](const py::str& spelling) {
    std::string token;
    if (!append_unspelled(TextView(spelling).get(), token)) {
      throw std::invalid_argument(py::repr(spelling).cast<std::string>() +
                                  " is not in the byte-level alphabet");
    }
    return bytes_of(token);
  });
}

}  // namespace pyllm::tokenizers
