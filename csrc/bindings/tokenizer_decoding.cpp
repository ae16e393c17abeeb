#include "tokenizer_decoding.h"

#include <pybind11/numpy.h>

#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "../tokenizers/threads.h"

namespace pyllm::tokenizers {
namespace {

// Fewer are decoded sooner than the GIL is given away and taken back.
constexpr size_t kManyIds = 1000;

// Small ids without a call: they are one digit of Python's own representation.
bool read_small(PyObject* number, int64_t& id) {
  if (!PyLong_CheckExact(number)) return false;
  auto* exact = reinterpret_cast<PyLongObject*>(number);
#if PY_VERSION_HEX >= 0x030C0000
  if (!PyUnstable_Long_IsCompact(exact)) return false;
  id = PyUnstable_Long_CompactValue(exact);
#else
  const Py_ssize_t digits = Py_SIZE(number);
  if (digits != 0 && digits != 1) return false;
  id = digits == 0 ? 0 : exact->ob_digit[0];
#endif
  return true;
}

int64_t read_any(const py::handle number, size_t index) {
  const auto integer = py::reinterpret_steal<py::object>(PyNumber_Index(number.ptr()));
  if (!integer) throw py::error_already_set();
  const long long id = PyLong_AsLongLong(integer.ptr());
  if (id == -1 && PyErr_Occurred()) {
    if (!PyErr_ExceptionMatches(PyExc_OverflowError)) throw py::error_already_set();
    PyErr_Clear();
    throw std::invalid_argument("ids: the number at index " + std::to_string(index) + " has no token");
  }
  return id;
}

// Looks at the size anew each time: a number of a type of its own may run any code.
std::vector<int64_t> numbers_of(const py::object& ids) {
  std::vector<int64_t> numbers(static_cast<size_t>(PySequence_Fast_GET_SIZE(ids.ptr())));
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (static_cast<Py_ssize_t>(i) >= PySequence_Fast_GET_SIZE(ids.ptr())) {
      throw std::invalid_argument("ids: the list shrank while it was read");
    }
    PyObject* number = PySequence_Fast_GET_ITEM(ids.ptr(), static_cast<Py_ssize_t>(i));
    if (!read_small(number, numbers[i])) {
      numbers[i] = read_any(py::reinterpret_borrow<py::object>(number), i);
    }
  }
  return numbers;
}

template <typename Id>
using Array = py::array_t<Id, py::array::c_style>;

// The ids of a list or tuple, or of an array, which is not copied if it is of one of the two common types.
class IdView {
 public:
  explicit IdView(const py::object& ids) : ids_(numbers(ids)) {}

  size_t size() const {
    return std::visit([](const auto& ids) { return static_cast<size_t>(ids.size()); }, ids_);
  }

  // Needs no GIL.
  void decode(const Decoder& decoder, bool first, bool skip_special, DecodedBytes& out) const {
    std::visit([&](const auto& ids) { decoder.decode(span_of(ids), first, skip_special, out); }, ids_);
  }

 private:
  using Numbers = std::variant<std::vector<int64_t>, Array<int64_t>, Array<uint32_t>>;

  static Numbers numbers(const py::object& ids) {
    if (PyList_Check(ids.ptr()) || PyTuple_Check(ids.ptr())) return numbers_of(ids);
    if (!py::isinstance<py::array>(ids)) {
      throw py::type_error("ids: expected a list, a tuple or an array, got " +
                           py::str(py::type::handle_of(ids).attr("__name__")).cast<std::string>());
    }
    const auto array = py::reinterpret_borrow<py::array>(ids);
    const char kind = array.dtype().kind();
    if (array.ndim() != 1 || (array.size() > 0 && kind != 'i' && kind != 'u')) {
      throw py::type_error("ids: expected an array of integers with one dimension, got " +
                           std::to_string(array.ndim()) + " dimensions of " +
                           py::str(array.dtype()).cast<std::string>());
    }
    if (py::isinstance<Array<uint32_t>>(ids)) return Array<uint32_t>(array);
    if (kind == 'u' && array.itemsize() == 8) check_fits(array);
    return Array<int64_t>(array.attr("astype")("int64", "C", "unsafe", true, false));
  }

  static void check_fits(const py::array& array) {
    if (array.size() > 0 && py::cast<uint64_t>(array.attr("max")()) > static_cast<uint64_t>(INT64_MAX)) {
      throw std::invalid_argument("ids: the largest number has no token");
    }
  }

  template <typename Id>
  static std::span<const Id> span_of(const Array<Id>& ids) {
    return {ids.data(), static_cast<size_t>(ids.size())};
  }
  static std::span<const int64_t> span_of(const std::vector<int64_t>& ids) { return ids; }

  Numbers ids_;
};

py::object text_of(std::string_view bytes, const char* errors, Py_ssize_t* consumed = nullptr) {
  const auto size = static_cast<Py_ssize_t>(bytes.size());
  PyObject* text = consumed == nullptr ? PyUnicode_DecodeUTF8(bytes.data(), size, errors)
                                       : PyUnicode_DecodeUTF8Stateful(bytes.data(), size, errors, consumed);
  if (text == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(text);
}

DecodedBytes decoded(const Decoder& decoder, const py::object& ids, bool first, bool skip_special) {
  const IdView view(ids);
  DecodedBytes bytes;
  std::optional<py::gil_scoped_release> release;
  if (view.size() > kManyIds) release.emplace();
  view.decode(decoder, first, skip_special, bytes);
  return bytes;
}

}  // namespace

py::bytes decode_to_bytes(const Decoder& decoder, const py::object& ids, bool first, bool skip_special) {
  const DecodedBytes bytes = decoded(decoder, ids, first, skip_special);
  return {bytes.view().data(), bytes.size()};
}

py::object decode_to_text(const Decoder& decoder, const py::object& ids, const std::string& errors,
                          bool skip_special) {
  return text_of(decoded(decoder, ids, true, skip_special).view(), errors.c_str());
}

py::list decode_batch(const Decoder& decoder, const py::list& rows, const std::string& errors,
                      bool skip_special, size_t num_threads) {
  std::vector<IdView> views;
  views.reserve(rows.size());
  for (const py::handle row : rows) views.emplace_back(py::reinterpret_borrow<py::object>(row));
  std::vector<DecodedBytes> texts(views.size());
  {
    const py::gil_scoped_release release;
    parallel_for_each(views.size(), num_threads,
                      [&](size_t, size_t i) { views[i].decode(decoder, true, skip_special, texts[i]); });
  }
  py::list result(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    result[i] = text_of(texts[i].view(), errors.c_str());
    texts[i] = {};
  }
  return result;
}

py::object StreamDecoder::push(const py::handle& id) {
  int64_t number = 0;
  if (!read_small(id.ptr(), number)) number = read_any(id, 0);
  const Decoder& decoder = tokenizer_->decoder();
  if (skip_special_ && decoder.is_special(number)) return py::str();
  const std::string_view token = decoder.bytes_of(number, first_);
  first_ = false;
  Py_ssize_t shown = 0;
  if (pending_.size() == 0) {
    py::object text = text_of(token, "replace", &shown);
    pending_.append(token.substr(static_cast<size_t>(shown)));
    return text;
  }
  pending_.append(token);
  py::object text = text_of(pending_.view(), "replace", &shown);
  pending_.drop_all_but(pending_.size() - static_cast<size_t>(shown));
  return text;
}

py::object StreamDecoder::finish() {
  py::object rest = text_of(pending_.view(), "replace");
  pending_.drop_all_but(0);
  first_ = true;
  return rest;
}

namespace {

// What the two functions below are bound to.
struct BoundStream {
  py::object owner;
  StreamDecoder& stream;
};

// Calls work(stream), and turns exceptions into Python's.
template <typename Work>
PyObject* call(PyObject* capsule, Work&& work) noexcept {
  try {
    return work(static_cast<BoundStream*>(PyCapsule_GetPointer(capsule, nullptr))->stream).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  }
  return nullptr;
}

PyObject* push(PyObject* capsule, PyObject* id) {
  return call(capsule, [&](StreamDecoder& stream) { return stream.push(id); });
}

PyObject* finish(PyObject* capsule, PyObject*) {
  return call(capsule, [](StreamDecoder& stream) { return stream.finish(); });
}

PyMethodDef push_method = {"push", push, METH_O, "The text that this token completes, perhaps empty."};
PyMethodDef finish_method = {"finish", finish, METH_NOARGS, "What is left; the decoder starts afresh."};

// Calls through pybind11 take several times as long as a token does.
py::tuple functions_of(const py::object& owner) {
  auto bound = std::make_unique<BoundStream>(BoundStream{owner, owner.cast<StreamDecoder&>()});
  const py::capsule capsule(bound.release(), [](void* p) { delete static_cast<BoundStream*>(p); });
  const auto function = [&](PyMethodDef& method) {
    PyObject* made = PyCFunction_New(&method, capsule.ptr());
    if (made == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(made);
  };
  return py::make_tuple(function(push_method), function(finish_method));
}

}  // namespace

void bind_decoding(py::module_& m) {
  py::class_<StreamDecoder>(m, "StreamDecoder").def("functions", &functions_of);
}

}  // namespace pyllm::tokenizers
