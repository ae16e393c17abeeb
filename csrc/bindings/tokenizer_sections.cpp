// Our own file form for Python.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>

#include "../tokenizers/sections.h"
#include "../tokenizers/tokenizer.h"
#include "tokenizer_components.h"

namespace pyllm::tokenizers {
namespace {

template <typename T>
void write_numbers(SectionWriter& file, const std::string& name,
                   const py::array_t<T, py::array::c_style>& numbers) {
  file.array(name, std::span<const T>(numbers.data(), static_cast<size_t>(numbers.size())));
}

// Shows the memory of the file, and keeps it.
template <typename T>
py::array_t<T> read_numbers(const SectionReader& file, const std::string& name) {
  auto owner = std::make_unique<FrozenArray<T>>(file.array<T>(name));
  const FrozenArray<T>& numbers = *owner;
  const py::capsule base(owner.release(), [](void* p) { delete static_cast<FrozenArray<T>*>(p); });
  py::array_t<T> array(static_cast<py::ssize_t>(numbers.size()), numbers.data(), base);
  array.attr("flags").attr("writeable") = false;
  return array;
}

std::shared_ptr<SectionReader> read_file(const std::string& path) {
  const FileBytes file = map_file(path);
  const py::gil_scoped_release release;
  return std::make_shared<SectionReader>(file.bytes, file.owner);
}

std::shared_ptr<SectionReader> read_bytes(const py::bytes& file) {
  const auto view = static_cast<std::string_view>(file);
  PyObject* held = file.inc_ref().ptr();
  const std::shared_ptr<const void> owner(view.data(), [held](const void*) {
    const py::gil_scoped_acquire acquire;
    Py_DECREF(held);
  });
  return std::make_shared<SectionReader>(view, owner);
}

py::list fields_of(const AddedTokens& added) {
  py::list fields(added.tokens.size());
  for (size_t i = 0; i < added.tokens.size(); ++i) {
    const AddedToken& token = added.tokens[i];
    fields[i] = py::make_tuple(token.content, token.id, token.special, token.lstrip, token.rstrip,
                               token.single_word, token.normalized);
  }
  return fields;
}

AddedTokens added_of(const std::vector<AddedTokenFields>& fields) {
  AddedTokens added;
  for (const auto& [content, id, special, lstrip, rstrip, single_word, normalized] : fields) {
    added.tokens.push_back({content, id, special, lstrip, rstrip, single_word, normalized});
  }
  return added;
}

}  // namespace

void bind_sections(py::module_& m) {
  py::class_<SectionWriter>(m, "SectionWriter")
      .def(py::init<>())
      .def("text", [](SectionWriter& file, const std::string& name,
                      const py::bytes& text) { file.text(name, static_cast<std::string_view>(text)); })
      .def("numbers", &write_numbers<uint32_t>)
      .def("numbers", &write_numbers<float>)
      .def("numbers", &write_numbers<double>)
      .def("tokens", [](SectionWriter& file, const std::string& name,
                        const TokenBytes& tokens) { tokens.store(file, name); })
      .def("added", [](SectionWriter& file, const AddedTokens& added) { store_added(added.tokens, file); })
      .def("finish", [](const SectionWriter& file) { return py::bytes(file.finish()); });
  py::class_<SectionReader, std::shared_ptr<SectionReader>>(m, "SectionReader")
      .def_static("file", &read_file, py::arg("path"))
      .def_static("bytes", &read_bytes, py::arg("file"))
      .def("has", &SectionReader::has)
      .def("text", [](const SectionReader& file,
                      const std::string& name) { return py::bytes(std::string(file.text(name))); })
      .def("ids", &read_numbers<uint32_t>)
      .def("floats", &read_numbers<float>)
      .def("doubles", &read_numbers<double>)
      .def("tokens",
           [](const SectionReader& file, const std::string& name) { return TokenBytes::load(file, name); })
      .def("added",
           [](const SectionReader& file) {
             AddedTokens added{load_added(file), {}};
             if (file.has("added.trie")) added.trie = load_added_trie(added.tokens, file);
             return added;
           })
      .def("decoding", [](const SectionReader& file) {
        const DecodingTables tables = load_decoding(file);
        return std::pair(tables.tokens, tables.first.size() > 0 ? std::optional(tables.first) : std::nullopt);
      });
  py::class_<AddedTokens>(m, "AddedTokens")
      .def(py::init(&added_of), py::arg("fields"))
      .def("fields", &fields_of);
}

}  // namespace pyllm::tokenizers
