// The strings of GGUF files for Python: a vocabulary has hundreds of thousands.
#include "../formats/prefixed_strings.h"

#include <pybind11/pybind11.h>

#include <utility>

#include "tokenizer_components.h"

namespace pyllm::tokenizers {
namespace {

std::string_view bytes_from(const py::buffer_info& data, size_t begin) {
  const auto size = static_cast<size_t>(data.size);
  if (data.itemsize != 1 || data.ndim != 1 || begin > size) {
    throw py::value_error("data: expected bytes, and begin in them");
  }
  return {static_cast<const char*>(data.ptr) + begin, size - begin};
}

// -> (how many strings are whole and within the limit, where they end)
std::pair<size_t, size_t> pass_strings(const py::buffer& data, size_t begin, size_t count, uint64_t limit) {
  const py::buffer_info info = data.request();
  gguf::PrefixedStrings strings(bytes_from(info, begin));
  size_t passed = 0;
  while (passed < count && strings.next(limit).data() != nullptr) ++passed;
  return {passed, begin + strings.position()};
}

// Raises UnicodeDecodeError for one that is not UTF-8.
py::list read_strings(const py::buffer& data, size_t begin, size_t count) {
  const py::buffer_info info = data.request();
  gguf::PrefixedStrings strings(bytes_from(info, begin));
  py::list texts;
  for (size_t i = 0; i < count; ++i) {
    const std::string_view bytes = strings.next(UINT64_MAX);
    if (bytes.data() == nullptr) throw py::value_error("data: ends before the strings do");
    PyObject* text = PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), nullptr);
    if (text == nullptr) throw py::error_already_set();
    texts.append(py::reinterpret_steal<py::object>(text));
  }
  return texts;
}

}  // namespace

void bind_prefixed_strings(py::module_& m) {
  m.def("pass_strings", &pass_strings, py::arg("data"), py::arg("begin"), py::arg("count"), py::arg("limit"));
  m.def("read_strings", &read_strings, py::arg("data"), py::arg("begin"), py::arg("count"));
}

}  // namespace pyllm::tokenizers
