// pybind11 module pyllm._tokenizers: the tokenizer core for Python. The GIL is released while texts are
// worked on.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../core/isa.h"
#include "../tokenizers/character_class.h"
#include "../tokenizers/encode_batch.h"
#include "../tokenizers/encoder_scratch.h"
#include "../tokenizers/normalize.h"
#include "../tokenizers/piece_counter.h"
#include "../tokenizers/scan/scan.h"
#include "../tokenizers/threads.h"
#include "../tokenizers/tokenizer.h"
#include "../tokenizers/trainer.h"
#include "tokenizer_components.h"
#include "tokenizer_decoding.h"

namespace py = pybind11;

namespace pyllm::tokenizers {
namespace {

std::vector<std::string_view> views_of(const std::vector<TextView>& texts) {
  std::vector<std::string_view> views;
  for (const TextView& text : texts) views.push_back(text.get());
  return views;
}

std::vector<TextView> texts_of(const py::list& texts) {
  std::vector<TextView> views;
  views.reserve(texts.size());
  for (const py::handle text : texts) views.emplace_back(text);
  return views;
}

py::list list_of(std::span<const TokenId> ids) {
  py::list result(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    PyObject* number = PyLong_FromUnsignedLong(ids[i]);
    if (number == nullptr) throw py::error_already_set();
    PyList_SET_ITEM(result.ptr(), static_cast<Py_ssize_t>(i), number);
  }
  return result;
}

// Python's collector of cycles looks through all lists again and again while many are made.
class CollectorPause {
 public:
  CollectorPause() : was_on_(PyGC_Disable() != 0) {}
  CollectorPause(const CollectorPause&) = delete;
  CollectorPause& operator=(const CollectorPause&) = delete;
  ~CollectorPause() {
    if (was_on_) PyGC_Enable();
  }

 private:
  bool was_on_;
};

py::list lists_of(const EncodedBatch& batch) {
  const CollectorPause pause;
  py::list rows(batch.size());
  for (size_t i = 0; i < batch.size(); ++i) {
    PyList_SET_ITEM(rows.ptr(), static_cast<Py_ssize_t>(i), list_of(batch[i]).release().ptr());
  }
  return rows;
}

// An array (n,), or (n, columns), that owns the numbers.
template <typename Number>
py::array_t<Number> rows_of(std::unique_ptr<std::vector<Number>> owner, size_t columns) {
  std::vector<Number>* raw = owner.get();
  const py::capsule base(owner.release(), [](void* p) { delete static_cast<std::vector<Number>*>(p); });
  const std::vector<size_t> flat{raw->size()}, table{raw->size() / columns, columns};
  return py::array_t<Number>(columns == 1 ? flat : table, raw->data(), base);
}

py::array_t<uint32_t> array_of(std::vector<TokenId> ids, size_t columns = 1) {
  return rows_of(std::make_unique<std::vector<TokenId>>(std::move(ids)), columns);
}

py::array_t<int64_t> offsets_of(const EncodeOutput& output) {
  auto offsets = std::make_unique<std::vector<int64_t>>();
  for (const Span& span : output.offsets) {
    offsets->insert(offsets->end(), {static_cast<int64_t>(span.begin), static_cast<int64_t>(span.end)});
  }
  return rows_of(std::move(offsets), 2);
}

class Encoding {
 public:
  // first_tokens: None if the first token of a text is like others. Takes the steps out of the two lists.
  Encoding(const std::shared_ptr<const Model>& model, const TokenBytes& tokens,
           const std::optional<TokenBytes>& first_tokens, NormalizerList& normalizers,
           Pretokenizer& pretokenizer, const AddedTokens& added_tokens) {
    TokenizerDefinition definition;
    definition.model = model;
    definition.decoding = {tokens, first_tokens.value_or(TokenBytes())};
    definition.normalizers = std::move(normalizers.steps);
    definition.pretokenizer = std::move(pretokenizer);
    definition.added_tokens = added_tokens.tokens;
    definition.added_trie = added_tokens.trie;
    const py::gil_scoped_release release;
    tokenizer_ = std::make_shared<const Tokenizer>(std::move(definition));
  }

  // matched: one flag for every added token, or None for all. plain: sorted spans of bytes; guarded: one flag
  // for every added token, needed where `plain` is not empty.
  EncodeOptions options(const std::optional<std::vector<bool>>& matched,
                        const std::vector<std::pair<size_t, size_t>>& plain,
                        const std::vector<bool>& guarded) const {
    const size_t count = tokenizer_->added_tokens().size();
    EncodeOptions result{matched.value_or(TokenFilter(count, true)), {}, guarded};
    if (result.matched.size() != count) {
      throw std::invalid_argument("matched: expected " + std::to_string(count) + " flags");
    }
    if (guarded.size() != count && !(plain.empty() && guarded.empty())) {
      throw std::invalid_argument("guarded: expected " + std::to_string(count) + " flags");
    }
    for (const auto& [begin, end] : plain) result.plain.push_back({begin, end});
    return result;
  }

  EncodeOutput encode(const py::object& text, const EncodeOptions& options, bool with_offsets,
                      size_t most_ids = SIZE_MAX) const {
    const TextView view(text);
    EncodeOutput output;
    output.with_offsets = with_offsets;
    output.most_ids = most_ids;
    const py::gil_scoped_release release;
    tokenizer_->encode(view.get(), options, output);
    return output;
  }

  // -> arrays of ids, of byte offsets (n, 2) in the UTF-8 of the text, and of the piece that each id is of
  py::tuple encode_with_offsets(const py::object& text, const EncodeOptions& options) const {
    EncodeOutput output = encode(text, options, true);
    const py::array offsets = offsets_of(output);
    return py::make_tuple(array_of(std::move(output.ids)), offsets, array_of(std::move(output.pieces)));
  }

  // -> ids, byte offsets (n, 2) and pieces of the ids as above; what the normalizers made of the text, and
  // the pieces: each (begin, end, bytes)
  py::tuple trace(const py::object& text, const EncodeOptions& options) const {
    const TextView view(text);
    EncodeTrace trace;
    EncodeOutput output;
    output.with_offsets = true;
    output.trace = &trace;
    {
      const py::gil_scoped_release release;
      tokenizer_->encode(view.get(), options, output);
    }
    const auto list_parts = [](const std::vector<EncodeTrace::Part>& parts) {
      py::list list;
      for (const auto& [origin, bytes] : parts) {
        list.append(py::make_tuple(origin.begin, origin.end, py::bytes(bytes)));
      }
      return list;
    };
    return py::make_tuple(list_of(output.ids), offsets_of(output), list_of(output.pieces),
                          list_parts(trace.normalized), list_parts(trace.pieces));
  }

  // (rank, begin, cut, end) of each merge of a piece, in bytes.
  std::vector<std::tuple<uint32_t, size_t, size_t, size_t>> merge_steps(const py::bytes& piece) const {
    std::vector<std::tuple<uint32_t, size_t, size_t, size_t>> steps;
    for (const auto& [rank, begin, cut, end] : tokenizer_->model().merge_steps(std::string_view(piece))) {
      steps.emplace_back(rank, begin, cut, end);
    }
    return steps;
  }

  // Of one text, which several threads encode in parts.
  std::vector<TokenId> ids_of(const py::object& text, const EncodeOptions& options,
                              size_t num_threads) const {
    if (num_threads == 1) return encode(text, options, false).ids;
    const TextView view(text);
    const py::gil_scoped_release release;
    return tokenizers::encode_batch(*tokenizer_, {view.get()}, options, {}, num_threads).ids;
  }

  py::list encode_batch(const py::list& texts, const EncodeOptions& options, size_t num_threads,
                        const std::vector<TokenId>& prefix, const std::vector<TokenId>& suffix) const {
    return lists_of(encode_all(texts, options, num_threads, {prefix, suffix}));
  }

  // -> arrays of the ids of all texts, prefix and suffix around each, and of the n + 1 borders between them
  py::tuple encode_batch_flat(const py::list& texts, const EncodeOptions& options, size_t num_threads,
                              const std::vector<TokenId>& prefix, const std::vector<TokenId>& suffix) const {
    EncodedBatch batch = encode_all(texts, options, num_threads, {prefix, suffix});
    auto borders = std::make_unique<std::vector<int64_t>>(batch.borders.begin(), batch.borders.end());
    return py::make_tuple(array_of(std::move(batch.ids)), rows_of(std::move(borders), 1));
  }

  // The bytes as one piece: no added tokens, no normalizers, no pretokenizer.
  py::list encode_piece(const py::object& piece) const {
    const TextView view(piece);
    EncoderScratch scratch;
    std::vector<TokenId> ids;
    {
      const py::gil_scoped_release release;
      if (!view.get().empty()) tokenizer_->model().encode_piece(view.get(), scratch, ids, nullptr);
    }
    return list_of(ids);
  }

  // The leftmost added token of those that the options match.
  std::optional<std::string> find_added(const py::object& text, const EncodeOptions& options) const {
    const TextView view(text);
    const AddedToken* token = nullptr;
    {
      const py::gil_scoped_release release;
      token = tokenizer_->find_added(view.get(), options.matched);
    }
    return token == nullptr ? std::nullopt : std::optional(token->content);
  }

  const std::shared_ptr<const Tokenizer>& tokenizer() const { return tokenizer_; }
  const Decoder& decoder() const { return tokenizer_->decoder(); }

  // (n, 3): left, right, merged, by ascending rank.
  py::array_t<uint32_t> merges() const {
    std::vector<TokenId> flat;
    for (const MergeRule& rule : tokenizer_->model().merges()) {
      flat.insert(flat.end(), {rule.left, rule.right, rule.merged});
    }
    return array_of(std::move(flat), 3);
  }

 private:
  EncodedBatch encode_all(const py::list& texts, const EncodeOptions& options, size_t num_threads,
                          const Surroundings& around) const {
    const std::vector<TextView> views = texts_of(texts);
    const py::gil_scoped_release release;
    return tokenizers::encode_batch(*tokenizer_, views_of(views), options, around, num_threads);
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
};

class Training {
 public:
  // max_memory: bytes that counting and merging may hold, or None.
  Training(const std::string& grammar, const std::vector<std::string>& boundaries,
           const std::string& tie_break, std::optional<size_t> max_memory)
      : rule_(find_tie_break(tie_break)),
        budget_(max_memory.value_or(SIZE_MAX)),
        counter_(grammar, boundaries, rule_, budget_) {}

  void add(const py::list& texts, int64_t count, size_t num_threads) {
    if (count < 1) throw std::invalid_argument("count: expected at least 1");
    const std::vector<TextView> views = texts_of(texts);
    const py::gil_scoped_release release;
    counter_.add(views_of(views), count, num_threads);
  }

  void add_block(const py::bytes& block, bool ends_text, const std::string& origin, size_t num_threads) {
    const std::string_view view = block;
    const py::gil_scoped_release release;
    counter_.add_block(view, ends_text, origin, num_threads);
  }

  void add_files(const std::vector<std::string>& paths, size_t num_threads,
                 const std::function<void(uint64_t)>& progress) {
    const py::gil_scoped_release release;
    counter_.add_files(paths, num_threads, [&](uint64_t bytes) { report(progress, bytes); });
  }

  uint64_t bytes() const { return counter_.bytes(); }

  // -> (tokens, (n, 3) ids of left, right and merged)
  py::tuple run(size_t vocab_size, const std::function<void(size_t, size_t)>& progress) {
    TrainedBytePairs trained;
    {
      const py::gil_scoped_release release;
      trained = train_byte_pairs(counter_.take_words(), vocab_size, rule_, budget_,
                                 [&](size_t done, size_t total) { report(progress, done, total); });
    }
    py::list tokens;
    for (const std::string& token : trained.tokens) tokens.append(py::bytes(token));
    std::vector<TokenId> flat;
    for (const TrainedMerge& merge : trained.merges)
      flat.insert(flat.end(), {merge.left, merge.right, merge.merged});
    return py::make_tuple(tokens, array_of(std::move(flat), 3));
  }

 private:
  // Ctrl-C and what the function raises stop the training.
  template <typename... Numbers>
  static void report(const std::function<void(Numbers...)>& progress, Numbers... numbers) {
    const py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    progress(numbers...);
  }

  TieBreak rule_;
  MemoryBudget budget_;
  PieceCounter counter_;
};

// Byte positions (begin, end) of the pieces.
std::vector<std::pair<size_t, size_t>> pretokenize(const std::string& grammar, const py::object& text) {
  const TextView view(text);
  std::vector<std::pair<size_t, size_t>> pieces;
  for_each_piece(find_pretokenizer(grammar), view.get(), [&](std::string_view piece) {
    const size_t begin = static_cast<size_t>(piece.data() - view.get().data());
    pieces.emplace_back(begin, begin + piece.size());
  });
  return pieces;
}

// The same pieces as `pretokenize`, found by the fast scanners of the active instruction-set level.
std::vector<std::pair<size_t, size_t>> scan_pieces(const std::string& grammar, const py::object& text) {
  const TextView view(text);
  const NextPiece next = find_pretokenizer(grammar);
  const ScanPieces scan = find_scan(next);
  std::vector<std::pair<size_t, size_t>> pieces;
  size_t ends[2 * kScanCapacity];
  for (size_t at = 0; at < view.get().size();) {
    const size_t count = scan(view.get(), at, next, ends, std::size(ends));
    for (size_t i = 0; i < count; at = ends[i++]) pieces.emplace_back(at, ends[i]);
  }
  return pieces;
}

// Every place where a text may be cut before it is encoded.
std::vector<size_t> borders(const std::string& grammar, const py::object& text) {
  const TextView view(text);
  const NextPiece next = find_pretokenizer(grammar);
  std::vector<size_t> places;
  for (size_t at = find_border(next, view.get(), 0); at < view.get().size();
       at = find_border(next, view.get(), at + 1)) {
    places.push_back(at);
  }
  return places;
}

}  // namespace
}  // namespace pyllm::tokenizers

PYBIND11_MODULE(_tokenizers, m) {
  using namespace pyllm::tokenizers;
  m.doc() = "Tokenizer core of pyllm (C++). Use pyllm.tokenizers.";
  m.attr("unicode_version") = kUnicodeVersion;

  py::class_<EncodeOptions>(m, "EncodeOptions");
  bind_vocabulary(m);
  bind_prefixed_strings(m);
  bind_sections(m);
  bind_components(m);
  bind_decoding(m);
  py::class_<Encoding>(m, "Encoding")
      .def(py::init<const std::shared_ptr<const Model>&, const TokenBytes&, const std::optional<TokenBytes>&,
                    NormalizerList&, Pretokenizer&, const AddedTokens&>(),
           py::arg("model"), py::arg("tokens"), py::arg("first_tokens"), py::arg("normalizers"),
           py::arg("pretokenizer"), py::arg("added_tokens"))
      .def("options", &Encoding::options, py::arg("matched"), py::arg("plain") = py::list(),
           py::arg("guarded") = py::list())
      .def(
          "encode",
          [](const Encoding& self, const py::object& text, const EncodeOptions& options, size_t num_threads) {
            return list_of(self.ids_of(text, options, num_threads));
          },
          py::arg("text"), py::arg("options"), py::arg("num_threads") = 1)
      .def("encode_to_numpy",
           [](const Encoding& self, const py::object& text, const EncodeOptions& options,
              size_t num_threads) { return array_of(self.ids_of(text, options, num_threads)); })
      .def("count", [](const Encoding& self, const py::object& text,
                       const EncodeOptions& options) { return self.encode(text, options, false).ids.size(); })
      .def("count_until",
           [](const Encoding& self, const py::object& text, const EncodeOptions& options, size_t limit) {
             const size_t count = self.encode(text, options, false, limit).ids.size();
             return count <= limit ? std::optional(count) : std::nullopt;
           })
      .def("encode_with_offsets", &Encoding::encode_with_offsets)
      .def("trace", &Encoding::trace)
      .def("merge_steps", &Encoding::merge_steps)
      .def("encode_batch", &Encoding::encode_batch, py::arg("texts"), py::arg("options"),
           py::arg("num_threads"), py::arg("prefix"), py::arg("suffix"))
      .def("encode_batch_flat", &Encoding::encode_batch_flat, py::arg("texts"), py::arg("options"),
           py::arg("num_threads"), py::arg("prefix"), py::arg("suffix"))
      .def("encode_piece", &Encoding::encode_piece)
      .def("find_added", &Encoding::find_added)
      .def(
          "decode",
          [](const Encoding& self, const py::object& ids, bool first, bool skip_special) {
            return decode_to_bytes(self.decoder(), ids, first, skip_special);
          },
          py::arg("ids"), py::arg("first") = true, py::arg("skip_special") = false)
      .def(
          "decode_to_text",
          [](const Encoding& self, const py::object& ids, const std::string& errors, bool skip_special) {
            return decode_to_text(self.decoder(), ids, errors, skip_special);
          },
          py::arg("ids"), py::arg("errors"), py::arg("skip_special"))
      .def(
          "decode_batch",
          [](const Encoding& self, const py::list& rows, const std::string& errors, bool skip_special,
             size_t num_threads) {
            return decode_batch(self.decoder(), rows, errors, skip_special, num_threads);
          },
          py::arg("rows"), py::arg("errors"), py::arg("skip_special"), py::arg("num_threads"))
      .def(
          "stream_decoder",
          [](const Encoding& self, bool skip_special) {
            return std::make_unique<StreamDecoder>(self.tokenizer(), skip_special);
          },
          py::arg("skip_special"))
      .def("merges", &Encoding::merges)
      .def("store", [](const Encoding& self, SectionWriter& file) { self.tokenizer()->store(file); });

  py::class_<Training>(m, "Training")
      .def(py::init<const std::string&, const std::vector<std::string>&, const std::string&,
                    std::optional<size_t>>(),
           py::arg("grammar"), py::arg("boundaries"), py::arg("tie_break"), py::arg("max_memory"))
      .def("add", &Training::add, py::arg("texts"), py::arg("count"), py::arg("num_threads"))
      .def("add_block", &Training::add_block, py::arg("block"), py::arg("ends_text"), py::arg("origin"),
           py::arg("num_threads"))
      .def("add_files", &Training::add_files, py::arg("paths"), py::arg("num_threads"), py::arg("progress"))
      .def_property_readonly("bytes", &Training::bytes)
      .def("run", &Training::run, py::arg("vocab_size"), py::arg("progress"));

  m.def("pretokenize", &pretokenize, py::arg("grammar"), py::arg("text"));
  m.def("scan_pieces", &scan_pieces, py::arg("grammar"), py::arg("text"));
  m.def("borders", &borders, py::arg("grammar"), py::arg("text"));
  m.def("active_isa", [] { return std::string(pyllm::isa_name(pyllm::active_isa())); });
  m.def("force_isa", &pyllm::force_isa, py::arg("name"));
  m.def("normalize_nfc",
        [](const py::object& text) { return py::bytes(normalize_nfc(TextView(text).get())); });
  m.def("character_class", [](uint32_t code_point) {
    return static_cast<int>(CharacterTable::instance().class_of(code_point));
  });
}
