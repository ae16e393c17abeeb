// What tokenizers are put together from in Python: texts as bytes, models, normalizers, pretokenizers.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "../tokenizers/added_tokens.h"
#include "../tokenizers/normalizers.h"

namespace pyllm::tokenizers {

namespace py = pybind11;

struct NormalizerList {
  std::vector<NormalizerStep> steps;
};

// The UTF-8 of a str, or the bytes of a bytes object, without a copy; the Python object must outlive the
// view. Of other objects with a buffer of bytes (bytearray, memoryview, numpy arrays), which may change while
// they are read, a copy. Lone surrogates, which UTF-8 cannot hold, are repaired as tiktoken does: pairs join,
// the rest becomes U+FFFD.
class TextView {
 public:
  explicit TextView(py::handle text) {
    if (PyBytes_Check(text.ptr())) {
      view_ = {PyBytes_AS_STRING(text.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(text.ptr()))};
    } else if (PyUnicode_Check(text.ptr())) {
      view_unicode(text);
    } else if (PyObject_CheckBuffer(text.ptr()) != 0) {
      view_buffer(text);
    } else {
      throw py::type_error("text: expected str or bytes, got " +
                           py::str(py::type::handle_of(text).attr("__name__")).cast<std::string>());
    }
  }

  std::string_view get() const { return view_; }

 private:
  void view_unicode(py::handle text) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
    if (data == nullptr) {
      if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) throw py::error_already_set();
      PyErr_Clear();
      held_ = text.attr("encode")("utf-16", "surrogatepass").attr("decode")("utf-16", "replace");
      data = PyUnicode_AsUTF8AndSize(held_.ptr(), &size);
      if (data == nullptr) throw py::error_already_set();
    }
    view_ = {data, static_cast<size_t>(size)};
  }

  void view_buffer(py::handle text) {
    const py::buffer_info info = py::reinterpret_borrow<py::buffer>(text).request();
    if (info.itemsize != 1 || info.ndim != 1) {
      throw py::type_error("text: expected a buffer of bytes in one dimension, got items of " +
                           std::to_string(info.itemsize) + " bytes in " + std::to_string(info.ndim));
    }
    held_ = py::reinterpret_steal<py::object>(PyBytes_FromObject(text.ptr()));
    if (!held_) throw py::error_already_set();
    view_ = {PyBytes_AS_STRING(held_.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(held_.ptr()))};
  }

  py::object held_;  // what the view shows, where it is not the object itself
  std::string_view view_;
};

// Adds the classes of models, normalizers and pretokenizers.
void bind_components(py::module_& m);

// (content, id, special, lstrip, rstrip, single_word, normalized)
using AddedTokenFields = std::tuple<std::string, TokenId, bool, bool, bool, bool, bool>;

struct AddedTokens {
  std::vector<AddedToken> tokens;
  std::optional<DoubleArrayTrie> trie;  // of their contents, if it is made already
};

// Adds our own file form, and the list of added tokens.
void bind_sections(py::module_& m);

// Adds tokens by id, and the readers of vocabulary files.
void bind_vocabulary(py::module_& m);

// Adds the reader of strings in GGUF files.
void bind_prefixed_strings(py::module_& m);

}  // namespace pyllm::tokenizers
