// Ids from Python, and text to Python.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <utility>

#include "../tokenizers/tokenizer.h"

namespace pyllm::tokenizers {

namespace py = pybind11;

// ids: a list or tuple of int, or an array of integers. first: they start a text. skip_special: as if special
// tokens were not there.
py::bytes decode_to_bytes(const Decoder& decoder, const py::object& ids, bool first, bool skip_special);

// errors: as in bytes.decode.
py::object decode_to_text(const Decoder& decoder, const py::object& ids, const std::string& errors,
                          bool skip_special);

// A list of texts, one for each member of `rows`.
py::list decode_batch(const Decoder& decoder, const py::list& rows, const std::string& errors,
                      bool skip_special, size_t num_threads);

// One token at a time: what is complete is shown, of the rest at most three bytes wait.
class StreamDecoder {
 public:
  StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special)
      : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

  // The text that the token completes.
  py::object push(const py::handle& id);
  // What is left; then the decoder starts afresh.
  py::object finish();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  DecodedBytes pending_;
  bool first_ = true, skip_special_;
};

// Adds the class that decodes one token at a time.
void bind_decoding(py::module_& m);

}  // namespace pyllm::tokenizers
