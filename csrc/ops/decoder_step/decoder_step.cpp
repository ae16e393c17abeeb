#include "ops/decoder_step/decoder_step.h"

#include <initializer_list>
#include <utility>

#include "core/scratch.h"
#include "core/team.h"
#include "ops/layer_norm/layer_norm.h"
#include "ops/quantized_linear/quantized_linear.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/rope/rope.h"

namespace pyllm::decoder_step {
namespace {

// Rows of one step, each buffer on a cache line.
class Buffers {
 public:
  Buffers(const Network& n, int64_t tokens)
      : row_bytes_(tokens * size_of(n.dtype)),
        memory_((5 * bytes(n.hidden) + 3 * bytes(n.heads * n.head_dim) + 3 * bytes(n.kv_heads * n.head_dim) +
                 3 * bytes(n.intermediate) + 3 * statistics(n, tokens)) /
                4) {}

  // (tokens, columns)
  void* rows(int64_t columns) { return take(bytes(columns)); }
  // What a norm or attention says of its rows beside them: here nobody reads it.
  void* row_statistics(const Network& n, int64_t tokens) { return take(statistics(n, tokens)); }

 private:
  static int64_t lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  int64_t bytes(int64_t columns) const { return lines(row_bytes_ * columns); }
  static int64_t statistics(const Network& n, int64_t tokens) {
    return lines(tokens * (n.heads + n.kv_heads + 1) * static_cast<int64_t>(sizeof(double)));
  }
  void* take(int64_t bytes) { return memory_.bytes() + std::exchange(used_, used_ + bytes); }

  int64_t row_bytes_, used_ = 0;
  Scratch memory_;
};

template <class T>
void add_as(const void* x, void* sum, int64_t count) {
  const T* from = static_cast<const T*>(x);
  T* to = static_cast<T*>(sum);
  for (int64_t i = 0; i < count; ++i) {
    to[i] = from_accumulator<T>(to_accumulator(to[i]) + to_accumulator(from[i]));
  }
}

class Runner {
 public:
  Runner(const Network& network, const Step& step) : n_(network), s_(step), buffers_(network, step.tokens) {
    for (void** rows : {&x_, &other_x_, &h_[0], &h_[1], &normed_}) *rows = buffers_.rows(n_.hidden);
    for (void** rows : {&q_, &other_q_, &attended_}) *rows = buffers_.rows(n_.heads * n_.head_dim);
    for (void** rows : {&k_, &other_k_, &v_}) *rows = buffers_.rows(n_.kv_heads * n_.head_dim);
    for (void** rows : {&gate_, &up_, &activated_}) *rows = buffers_.rows(n_.intermediate);
    for (void** rows : {&mean_, &rstd_, &lse_}) *rows = buffers_.row_statistics(n_, s_.tokens);
  }

  void run() {
    for (size_t i = 0; i < n_.layers.size(); ++i) {
      const Layer& layer = n_.layers[i];
      join(layer.before_attention, normed_);
      attend(layer, s_.caches[i]);
      if (n_.parallel_block) {
        std::swap(x_, other_x_);
        feed_forward(layer);
        visit(n_.dtype, [&](auto zero) { add_as<decltype(zero)>(other_x_, x_, s_.tokens * n_.hidden); });
        continue;
      }
      normalize_after(layer.after_attention);
      join(layer.before_mlp, normed_);
      feed_forward(layer);
      normalize_after(layer.after_mlp);
    }
    join(n_.last, s_.out);
  }

 private:
  // y = norm(h + x), which is the next h. The first h is the input.
  void join(const Norm& norm, void* y) {
    if (!current_h_) {
      current_h_ = s_.x;
      return normalize(norm, s_.tokens, n_.hidden, s_.x, nullptr, y, nullptr, n_.layer_norm);
    }
    normalize(norm, s_.tokens, n_.hidden, x_, current_h_, y, h_[1], n_.layer_norm);
    std::swap(h_[0], h_[1]);
    current_h_ = h_[0];
  }

  void normalize_after(const Norm& norm) {
    if (!norm.weight) return;
    normalize(norm, s_.tokens, n_.hidden, x_, nullptr, other_x_, nullptr, n_.layer_norm);
    std::swap(x_, other_x_);
  }

  void normalize(const Norm& norm, int64_t rows, int64_t columns, const void* x, const void* residual,
                 void* y, void* residual_out, bool layer_norm) {
    if (layer_norm) {
      return layer_norm::forward({n_.dtype, rows, columns, x, residual, norm.weight, norm.bias, y,
                                  residual_out, mean_, rstd_, n_.eps});
    }
    rms_norm::forward(
        {n_.dtype, rows, columns, x, residual, norm.weight, y, residual_out, rstd_, n_.eps, n_.norm_offset});
  }

  // Each head by itself; `x` and `other` change places.
  void normalize_heads(const Norm& norm, int64_t heads, void*& x, void*& other) {
    if (!norm.weight) return;
    normalize(norm, s_.tokens * heads, n_.head_dim, x, nullptr, other, nullptr, false);
    std::swap(x, other);
  }

  struct Projection {
    const Linear& linear;
    void* out;
  };

  // Layers of one x: one pass over it and one loop where all of them are quantized.
  void project(const void* x, std::initializer_list<Projection> layers) {
    quantized_linear::Product products[3];
    int64_t count = 0;
    for (const auto& [linear, out] : layers) {
      if (linear.weight.data) {
        project_dense(linear, x, out);
      } else {
        products[count++] = {n_.dtype, s_.tokens, x, linear.inputs, linear.quantized, linear.bias, out};
      }
    }
    if (count) quantized_linear::forward(products, count);
  }

  void project_dense(const Linear& linear, const void* x, void* out) {
    linear::product({.dtype = n_.dtype,
                     .out_dtype = n_.dtype,
                     .rows = s_.tokens,
                     .columns = linear.outputs,
                     .depth = linear.inputs,
                     .left = {x, linear.inputs, 1},
                     .right = linear.weight,
                     .bias = linear.bias,
                     .out = out});
  }

  // (tokens, heads, dim) as it is, or (heads, tokens, dim) rotated; `x` and `other` change places.
  attention::Heads rotate(const Layer& layer, int64_t heads, void*& x, void*& other) {
    if (!layer.cos) return {x, 0, n_.head_dim, heads * n_.head_dim};
    rope::rotate({.dtype = n_.dtype,
                  .batch = 1,
                  .heads = heads,
                  .length = s_.tokens,
                  .head_dim = n_.head_dim,
                  .pairs = n_.pairs,
                  .x = x,
                  .batch_stride = 0,
                  .head_stride = n_.head_dim,
                  .row_stride = heads * n_.head_dim,
                  .out = other,
                  .cos = layer.cos,
                  .sin = layer.sin,
                  .table_rows = 0,  // positions are checked where they come in
                  .positions = s_.positions,
                  .positions_batch_stride = 0,
                  .interleaved = n_.interleaved,
                  .inverse = false});
    std::swap(x, other);
    return {x, 0, s_.tokens * n_.head_dim, n_.head_dim};
  }

  // x = o_proj(attention over what normed_ and the cache hold)
  void attend(const Layer& layer, const Cache& cache) {
    project(normed_, {{layer.q, q_}, {layer.k, k_}, {layer.v, v_}});
    normalize_heads(layer.query, n_.heads, q_, other_q_);
    normalize_heads(layer.key, n_.kv_heads, k_, other_k_);
    const attention::Heads q = rotate(layer, n_.heads, q_, other_q_);
    const attention::Heads k = rotate(layer, n_.kv_heads, k_, other_k_);
    attention::write_kv({.dtype = n_.dtype,
                         .kv_heads = n_.kv_heads,
                         .k = k,
                         .v = {v_, 0, n_.head_dim, n_.kv_heads * n_.head_dim},
                         .data = cache.data,
                         .layout = s_.layout,
                         .page_stride = cache.page_stride,
                         .head_stride = cache.head_stride,
                         .token = cache.new_tokens,
                         .tokens = s_.tokens});
    attention::forward(
        {.problem = {.dtype = n_.dtype,
                     .sequences = s_.sequence_count,
                     .heads = n_.heads,
                     .kv_heads = n_.kv_heads,
                     .head_dim = n_.head_dim,
                     .value_dim = n_.head_dim,
                     .tokens = s_.tokens,
                     .sequence = s_.sequences,
                     .q = q,
                     .k = {},
                     .v = {},
                     .intervals = {true, layer.window, 0},
                     .mask = {},
                     .sink_logits = nullptr,
                     .alibi_slopes = nullptr,
                     .scale = n_.scale,
                     .softcap = n_.softcap,
                     .dropout_p = 0,
                     .seed = 0,
                     .tiles = 0,
                     .blocks = 0,
                     .pages = {cache.data, s_.layout, cache.page_stride, cache.head_stride, cache.pages}},
         .out = {attended_, 0, n_.head_dim, n_.heads * n_.head_dim},
         .lse = lse_});
    project(attended_, {{layer.o, x_}});
  }

  // x = down_proj(activation(gate_proj) * up_proj) of normed_, or down_proj(activation(up_proj))
  void feed_forward(const Layer& layer) {
    const bool gated = layer.gate.outputs > 0;
    if (gated) {
      project(normed_, {{layer.gate, gate_}, {layer.up, up_}});
    } else {
      project(normed_, {{layer.up, up_}});
    }
    const swiglu::Input up = {up_, n_.intermediate};
    swiglu::forward({.dtype = n_.dtype,
                     .activation = n_.activation,
                     .rows = s_.tokens,
                     .columns = n_.intermediate,
                     .gate = gated ? swiglu::Input{gate_, n_.intermediate} : up,
                     .up = gated ? up : swiglu::Input{},
                     .out = activated_});
    project(activated_, {{layer.down, x_}});
  }

  const Network& n_;
  const Step& s_;
  Buffers buffers_;
  const void* current_h_ = nullptr;
  void *x_, *other_x_, *h_[2], *normed_;
  void *q_, *other_q_, *attended_, *k_, *other_k_, *v_;
  void *gate_, *up_, *activated_;
  void *mean_, *rstd_, *lse_;
};

}  // namespace

void run(const Network& network, const Step& step) {
  if (step.tokens == 0) return;
  with_team([&] { Runner(network, step).run(); });
}

}  // namespace pyllm::decoder_step
