#include "ops/decoder_step/decoder_step.h"

#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "bindings/torch/activation_argument.h"
#include "bindings/torch/packed_arguments.h"
#include "bindings/torch/paged_arguments.h"

namespace pyllm::binding {
namespace {

using pyllm::decoder_step::Cache;
using pyllm::decoder_step::Layer;
using pyllm::decoder_step::Linear;
using pyllm::decoder_step::Network;
using pyllm::decoder_step::Norm;

constexpr const char* kOp = "decoder_step";
constexpr const char* kNetwork = "decoder_network";

// Weight and bias of one norm or linear layer; weight empty where the network has none.
struct Parameters {
  Tensor weight, bias;
};

struct KeptLinear {
  Parameters parameters;
  int64_t inputs, outputs;
  const packed::Format* format;  // null where the weight is not quantized
  packed::Layout layout;
};

struct KeptLayer {
  Parameters before_attention, query, key, after_attention, before_mlp, after_mlp;
  KeptLinear q, k, v, o, gate, up, down;
  int64_t window;
};

// A network's tensors, kept alive, and what does not change about it. Addresses are asked for anew in each
// step: another storage may take a tensor's place.
struct KeptNetwork {
  Network options;  // without layers
  std::vector<KeptLayer> layers;
  Parameters last;
};

// Takes tensors and formats one after the other, in the order of pyllm/ops/decoder_step.py.
class Reader {
 public:
  Reader(const std::vector<Tensor>& tensors, const std::vector<std::string>& formats)
      : tensors_(tensors), formats_(formats) {}

  Parameters parameters() {
    check(next_ + 2 <= tensors_.size(), kNetwork,
          "there must be a weight and a bias for every norm and linear layer");
    next_ += 2;
    return {tensors_[next_ - 2], tensors_[next_ - 1]};
  }

  KeptLinear linear(int64_t inputs, int64_t outputs) {
    check(next_format_ < formats_.size(), kNetwork, "there must be a format for every linear layer");
    const std::string& name = formats_[next_format_++];
    KeptLinear kept = {parameters(), inputs, outputs, nullptr, {}};
    if (kept.parameters.weight.numel() == 0) kept.outputs = 0;
    if (name.empty() || kept.outputs == 0) return kept;
    kept.format = &format_of(name, kNetwork);
    kept.layout = packed_layout_of(*kept.format, outputs, inputs, kNetwork);
    return kept;
  }

  bool is_done() const { return next_ == tensors_.size() && next_format_ == formats_.size(); }

 private:
  const std::vector<Tensor>& tensors_;
  const std::vector<std::string>& formats_;
  size_t next_ = 0, next_format_ = 0;
};

// Networks by number: an operator's arguments are tensors and numbers.
class Registry {
 public:
  int64_t add(std::shared_ptr<const KeptNetwork> network) {
    const std::lock_guard lock(mutex_);
    networks_[++last_] = std::move(network);
    return last_;
  }
  std::shared_ptr<const KeptNetwork> find(int64_t id) {
    const std::lock_guard lock(mutex_);
    const auto found = networks_.find(id);
    check(found != networks_.end(), kOp, "network must be a number that decoder_network gave");
    return found->second;
  }
  void remove(int64_t id) {
    std::shared_ptr<const KeptNetwork> last;  // its tensors are freed outside of the lock
    const std::lock_guard lock(mutex_);
    const auto found = networks_.find(id);
    if (found == networks_.end()) return;
    last = std::move(found->second);
    networks_.erase(found);
  }

 private:
  std::mutex mutex_;
  std::map<int64_t, std::shared_ptr<const KeptNetwork>> networks_;
  int64_t last_ = 0;
};

Registry& registry() {
  static Registry* const networks = new Registry;  // outlives torch's own statics, which tensors need to die
  return *networks;
}

int64_t decoder_network(std::vector<Tensor> tensors, std::vector<std::string> formats,
                        std::vector<int64_t> windows, std::vector<int64_t> shape, std::vector<double> numbers,
                        std::string activation, bool layer_norm, bool parallel_block, bool interleaved) {
  check(shape.size() == 5 && numbers.size() == 4, kNetwork, "shape must have 5 entries and numbers 4");
  for (const int64_t size : shape) check(size > 0 && size < (1 << 28), kNetwork, "sizes must be positive");
  auto network = std::make_shared<KeptNetwork>();
  Network& n = network->options;
  n.hidden = shape[0];
  n.intermediate = shape[1];
  n.heads = shape[2];
  n.kv_heads = shape[3];
  n.head_dim = shape[4];
  check(n.heads % n.kv_heads == 0, kNetwork, "heads must be a multiple of kv_heads");
  n.eps = numbers[0];
  n.norm_offset = numbers[1];
  n.scale = numbers[2];
  n.softcap = numbers[3];
  n.activation = activation_of(activation, kNetwork);
  n.layer_norm = layer_norm;
  n.parallel_block = parallel_block;
  n.interleaved = interleaved;
  const int64_t query = n.heads * n.head_dim, key = n.kv_heads * n.head_dim;
  Reader read(tensors, formats);
  for (const int64_t window : windows) {
    check(window >= 0, kNetwork, "windows must not be negative");
    // Braces evaluate from left to right.
    network->layers.push_back(
        {read.parameters(), read.parameters(), read.parameters(), read.parameters(), read.parameters(),
         read.parameters(), read.linear(n.hidden, query), read.linear(n.hidden, key),
         read.linear(n.hidden, key), read.linear(query, n.hidden), read.linear(n.hidden, n.intermediate),
         read.linear(n.hidden, n.intermediate), read.linear(n.intermediate, n.hidden), window});
  }
  network->last = read.parameters();
  check(read.is_done(), kNetwork, "there are more tensors or formats than layers have");
  return registry().add(std::move(network));
}

void free_decoder_network(int64_t network) { registry().remove(network); }

// A vector of `size` elements of the network's dtype; null where the tensor is empty and may be.
const void* vector_of(const Tensor& x, int64_t size, const Tensor& like, bool may_miss) {
  if (may_miss && x.numel() == 0) return nullptr;
  check(x.numel() == size && x.scalar_type() == like.scalar_type() && x.is_contiguous(), kOp,
        "norm weights and biases must be contiguous, of the layer's size and of x's dtype");
  return x.const_data_ptr();
}

Norm norm_of(const Parameters& kept, int64_t size, const Tensor& x, bool may_miss) {
  return {vector_of(kept.weight, size, x, may_miss), vector_of(kept.bias, size, x, true)};
}

Linear linear_of(const KeptLinear& kept, const Tensor& x) {
  const Tensor& weight = kept.parameters.weight;
  if (kept.outputs == 0) return {};
  Linear linear = {.inputs = kept.inputs,
                   .outputs = kept.outputs,
                   .weight = {},
                   .quantized = {},
                   .bias = vector_of(kept.parameters.bias, kept.outputs, x, true)};
  if (kept.format) {
    check(weight.dim() == 1 && weight.scalar_type() == ScalarType::Byte && weight.is_contiguous() &&
              weight.numel() == kept.layout.bytes,
          kOp, "a quantized weight must be the packed bytes of its format and shape");
    linear.quantized = {kept.format, kept.layout, static_cast<const uint8_t*>(weight.const_data_ptr())};
    return linear;
  }
  check(weight.dim() == 2 && weight.size(0) == kept.outputs && weight.size(1) == kept.inputs &&
            weight.scalar_type() == x.scalar_type() && (weight.stride(0) == 1 || weight.stride(1) == 1),
        kOp, "a weight must be (out, in) of x's dtype, rows or columns contiguous");
  linear.weight = {weight.const_data_ptr(), weight.stride(0), weight.stride(1)};
  return linear;
}

// Tables of cosines and sines: of all layers, or of those without and with a window.
struct Angles {
  const void *cos = nullptr, *sin = nullptr;
};
Angles angles_of(const std::vector<Tensor>& tables, size_t first, const Tensor& x, int64_t pairs,
                 int64_t* rows) {
  const Tensor &cos = tables[first], &sin = tables[first + 1];
  for (const Tensor* table : {&cos, &sin}) {
    check(table->dim() == 2 && table->size(1) == pairs && table->is_contiguous() &&
              table->scalar_type() == accumulator_type(x),
          kOp, "cos and sin must be contiguous (positions, rotary_dim / 2), float32, float64 for float64 x");
    *rows = std::min(*rows, table->size(0));
  }
  return {cos.const_data_ptr(), sin.const_data_ptr()};
}

Network network_of(const KeptNetwork& kept, const Tensor& x, const Angles& angles,
                   const Angles& local_angles) {
  Network n = kept.options;
  const int64_t hidden = n.hidden;
  n.layers.reserve(kept.layers.size());
  for (const KeptLayer& layer : kept.layers) {
    const Angles& turned = layer.window ? local_angles : angles;
    n.layers.push_back({.before_attention = norm_of(layer.before_attention, hidden, x, false),
                        .query = norm_of(layer.query, n.head_dim, x, true),
                        .key = norm_of(layer.key, n.head_dim, x, true),
                        .after_attention = norm_of(layer.after_attention, hidden, x, true),
                        .before_mlp = norm_of(layer.before_mlp, hidden, x, n.parallel_block),
                        .after_mlp = norm_of(layer.after_mlp, hidden, x, true),
                        .q = linear_of(layer.q, x),
                        .k = linear_of(layer.k, x),
                        .v = linear_of(layer.v, x),
                        .o = linear_of(layer.o, x),
                        .gate = linear_of(layer.gate, x),
                        .up = linear_of(layer.up, x),
                        .down = linear_of(layer.down, x),
                        .window = layer.window,
                        .cos = turned.cos,
                        .sin = turned.sin});
  }
  n.last = norm_of(kept.last, hidden, x, false);
  return n;
}

// What one block table says of the step's tokens and sequences.
struct Places {
  Batch batch;
  std::vector<attention::WriteKv::Token> new_tokens;
};

// Layers that share a block table share its places.
class PlacesOfTables {
 public:
  const Places& at(const Tensor& table, int64_t pages, const std::vector<int64_t>& positions,
                   const Tensor& lengths, const std::optional<Tensor>& prefix_lengths,
                   const Tensor& cu_seqlens_q, int64_t page_size) {
    auto& places = known_[{table.const_data_ptr(), pages}];
    if (places) return *places;
    const int64_t tokens = static_cast<int64_t>(positions.size());
    Batch batch = batch_of({1, tokens}, pages, table, lengths, prefix_lengths, cu_seqlens_q, page_size, kOp);
    const std::vector<int64_t> ends = borders(cu_seqlens_q, tokens, kOp, "cu_seqlens_q");
    const IntegerTable entries(table, kOp, "block_table");
    places = std::make_unique<Places>(
        Places{std::move(batch), new_tokens(positions, tokens, ends, entries, pages, page_size, kOp)});
    return *places;
  }

 private:
  std::map<std::pair<const void*, int64_t>, std::unique_ptr<Places>> known_;
};

void check_positions(const std::vector<int64_t>& positions, int64_t tokens, int64_t rows) {
  check(static_cast<int64_t>(positions.size()) == tokens, kOp, "position_ids must have one entry per token");
  for (const int64_t position : positions) {
    check_value(position >= 0 && position < rows, kOp, [&] {
      return "position_ids must lie in [0, " + std::to_string(rows) + "), got " + std::to_string(position);
    });
  }
}

Tensor decoder_step(const Tensor& x_any, int64_t id, std::vector<Tensor> caches, std::vector<Tensor> angles,
                    const Tensor& position_ids, std::vector<Tensor> block_tables, const Tensor& lengths,
                    std::optional<Tensor> prefix_lengths, const Tensor& cu_seqlens_q, int64_t page_size) {
  const std::shared_ptr<const KeptNetwork> kept = registry().find(id);
  const size_t layers = kept->layers.size();
  const Tensor x = dense(x_any);
  check(x.dim() == 2 && x.size(1) == kept->options.hidden, kOp, "x must be (tokens, hidden_size)");
  check(caches.size() == layers && (block_tables.size() == 1 || block_tables.size() == layers), kOp,
        "there must be a cache for each layer, and one block table or one for each");
  check(angles.empty() || angles.size() == 2 || angles.size() == 4, kOp, "angles must be 0, 2 or 4 tables");
  int64_t rows = int64_t{1} << 62;
  const int64_t pairs = angles.empty() ? 0 : angles[0].size(1);
  check(2 * pairs <= kept->options.head_dim, kOp, "rotary_dim must be at most head_dim");
  Angles all, local;
  if (!angles.empty()) {
    all = angles_of(angles, 0, x, pairs, &rows);
    local = angles.size() == 4 ? angles_of(angles, 2, x, pairs, &rows) : all;
  }
  Network n = network_of(*kept, x, all, local);
  n.dtype = dtype_of(x, kOp, "x");
  n.pairs = pairs;
  const std::vector<int64_t> positions = integers(position_ids, kOp, "position_ids");
  check_positions(positions, x.size(0), rows);
  PlacesOfTables places_of_tables;
  std::vector<Cache> pages;
  std::vector<attention::Sequence>* sequences = nullptr;
  for (size_t i = 0; i < layers; ++i) {
    page_layout_of(caches[i], n.dtype, attention::KvCode::none, page_size, n.head_dim, n.head_dim, kOp);
    check(caches[i].size(1) == n.kv_heads, kOp, "caches must have the network's kv_heads");
    const Places& places =
        places_of_tables.at(block_tables[block_tables.size() == 1 ? 0 : i], caches[i].size(0), positions,
                            lengths, prefix_lengths, cu_seqlens_q, page_size);
    sequences = const_cast<std::vector<attention::Sequence>*>(&places.batch.sequences);
    pages.push_back({caches[i].mutable_data_ptr(), caches[i].stride(0), caches[i].stride(1),
                     places.batch.pages.data(), places.new_tokens.data()});
  }
  Tensor out = empty(x, shape_of(x));
  pyllm::decoder_step::run(n, {.tokens = x.size(0),
                               .x = x.const_data_ptr(),
                               .out = out.mutable_data_ptr(),
                               .positions = positions.data(),
                               .sequences = sequences ? sequences->data() : nullptr,
                               .sequence_count = sequences ? static_cast<int64_t>(sequences->size()) : 0,
                               .layout = attention::page_layout(n.dtype, page_size, n.head_dim, n.head_dim),
                               .caches = pages.data()});
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyllm, m) {
  m.def(
      "decoder_network(Tensor[] tensors, str[] formats, int[] windows, int[] shape, float[] numbers, str "
      "activation, "
      "bool layer_norm, bool parallel_block, bool interleaved) -> int");
  m.def("free_decoder_network(int network) -> ()");
  m.def(
      "decoder_step(Tensor x, int network, Tensor(a!)[] caches, Tensor[] angles, Tensor position_ids, "
      "Tensor[] block_tables, Tensor lengths, Tensor? prefix_lengths, Tensor cu_seqlens_q, int page_size) -> "
      "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CompositeExplicitAutograd, m) {
  m.impl("free_decoder_network", TORCH_BOX(&free_decoder_network));
}

STABLE_TORCH_LIBRARY_IMPL(pyllm, CPU, m) {
  m.impl("decoder_network", TORCH_BOX(&decoder_network));
  m.impl("decoder_step", TORCH_BOX(&decoder_step));
}

}  // namespace pyllm::binding
