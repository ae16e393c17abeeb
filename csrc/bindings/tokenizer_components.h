// What tokenizers are put together from in Python: texts as bytes, models, normalizers, pretokenizers.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../tokenizers/normalizers.h"

namespace pyllm::tokenizers {

namespace py = pybind11;

struct NormalizerList {
  std::vector<NormalizerStep> steps;
};

// The UTF-8 of a str, or the bytes of a bytes object, without a copy; the Python object must outlive the
// view. Lone surrogates, which UTF-8 cannot hold, are repaired as tiktoken does: pairs join, the rest becomes
// U+FFFD.
class TextView {
 public:
  explicit TextView(py::handle text) {
    if (PyBytes_Check(text.ptr())) {
      view_ = {PyBytes_AS_STRING(text.ptr()), static_cast<size_t>(PyBytes_GET_SIZE(text.ptr()))};
    } else if (PyUnicode_Check(text.ptr())) {
      view_unicode(text);
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
      repaired_ = text.attr("encode")("utf-16", "surrogatepass").attr("decode")("utf-16", "replace");
      data = PyUnicode_AsUTF8AndSize(repaired_.ptr(), &size);
      if (data == nullptr) throw py::error_already_set();
    }
    view_ = {data, static_cast<size_t>(size)};
  }

  py::object repaired_;
  std::string_view view_;
};

// Tokens by id, and which ids have one; None has none. The views live as long as the list.
std::pair<std::vector<std::string_view>, std::vector<bool>> views_by_id(const py::list& tokens);

// Adds the classes of models, normalizers and pretokenizers.
void bind_components(py::module_& m);

}  // namespace pyllm::tokenizers
