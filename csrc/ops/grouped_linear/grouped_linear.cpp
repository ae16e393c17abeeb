// Dense experts: tasks are stretches of one expert's columns, and whoever is free takes the next.
//
//   for expert with rows, for stretch of its columns        parallel
//     out = left rows * right columns                       ops/linear on one thread, which packs what it
//     needs
//
// A stretch is wide enough that preparing the rows again for each one is a few percent. Sums do not depend on
// how a product is cut (linear.h), so neither do the bits.
#include "ops/grouped_linear/grouped_linear.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/parallel.h"
#include "ops/quantized_linear/quantized_linear.h"

namespace pyllm::grouped_linear {
namespace {

constexpr int64_t kTaskProducts = int64_t{1} << 18;  // multiply-adds, which pay for a fork
constexpr int64_t kFewRows = 16;                     // which no path packs
constexpr int64_t kLeastFew = 64, kLeastMany = 384;  // columns of a stretch
constexpr int64_t kPanel = 48;                       // of which a stretch is a multiple

void* moved(void* data, DType dtype, int64_t elements) {
  return static_cast<char*>(data) + elements * size_of(dtype);
}
const void* moved(const void* data, DType dtype, int64_t elements) {
  return static_cast<const char*>(data) + elements * size_of(dtype);
}

int64_t stretch_of(const linear::Product& p) {
  const int64_t paying = kTaskProducts / (p.rows * p.depth + 1);
  const int64_t least = std::max(paying, p.rows <= kFewRows ? kLeastFew : kLeastMany);
  return (least + kPanel - 1) / kPanel * kPanel;
}

linear::Product columns_of(const linear::Product& p, int64_t first, int64_t count) {
  linear::Product part = p;
  part.columns = count;
  part.right.data = moved(p.right.data, p.dtype, first * p.right.stride);
  part.out = moved(p.out, p.out_dtype, first);
  part.out_stride = p.columns;
  return part;
}

void run_together(const std::vector<linear::Product>& products) {
  std::vector<linear::Product> tasks;
  for (const linear::Product& p : products) {
    const int64_t stretch = stretch_of(p);
    for (int64_t column = 0; column < p.columns; column += stretch) {
      tasks.push_back(columns_of(p, column, std::min(stretch, p.columns - column)));
    }
  }
  std::atomic<size_t> next{0};
  parallel_for(0, static_cast<int64_t>(tasks.size()), 1, [&](int64_t, int64_t) {
    for (size_t task = next++; task < tasks.size(); task = next++) linear::product(tasks[task]);
  });
}

// f(expert, its first row, its rows) for experts with rows.
template <class F>
void for_each_expert(const Groups& groups, const F& f) {
  for (int64_t e = 0; e < groups.experts; ++e) {
    if (groups.rows(e) > 0) f(e, groups.first(e), groups.rows(e));
  }
}

std::vector<quantized_linear::Product> products_of(const QuantizedProduct& p, bool forward) {
  std::vector<quantized_linear::Product> products;
  for_each_expert(p.groups, [&](int64_t e, int64_t first, int64_t rows) {
    const packed::Layout& layout = p.weights[e].layout;
    const int64_t in = forward ? layout.inputs : layout.outputs;
    const int64_t out = forward ? layout.outputs : layout.inputs;
    products.push_back({.dtype = p.dtype,
                        .rows = rows,
                        .left = moved(p.left, p.dtype, first * in),
                        .stride = in,
                        .weight = p.weights[e],
                        .bias = nullptr,
                        .out = moved(p.out, p.dtype, first * out)});
  });
  return products;
}

}  // namespace

void product(const Product& p) {
  std::vector<linear::Product> products;
  for_each_expert(p.groups, [&](int64_t e, int64_t first, int64_t rows) {
    linear::Operand left = p.left, right = p.right;
    left.data = moved(left.data, p.dtype, first * left.stride);
    right.data = moved(right.data, p.dtype, e * p.expert_stride);
    products.push_back({.dtype = p.dtype,
                        .out_dtype = p.dtype,
                        .rows = rows,
                        .columns = p.columns,
                        .depth = p.depth,
                        .left = left,
                        .right = right,
                        .bias = nullptr,
                        .out = moved(p.out, p.dtype, first * p.columns)});
  });
  run_together(products);
}

void grad_weight(const WeightGradient& p) {
  std::vector<linear::Product> products;
  for (int64_t e = 0; e < p.groups.experts; ++e) {
    const int64_t first = p.groups.first(e);
    products.push_back({.dtype = p.dtype,
                        .out_dtype = p.dtype,
                        .rows = p.outputs,
                        .columns = p.inputs,
                        .depth = p.groups.rows(e),
                        .left = {moved(p.grad_y, p.dtype, first * p.outputs), 1, p.outputs},
                        .right = {moved(p.x, p.dtype, first * p.inputs), 1, p.inputs},
                        .bias = nullptr,
                        .out = moved(p.out, p.dtype, e * p.outputs * p.inputs)});
  }
  run_together(products);
}

void forward(const QuantizedProduct& p) {
  const auto products = products_of(p, true);
  quantized_linear::forward(products.data(), static_cast<int64_t>(products.size()));
}

void grad_x(const QuantizedProduct& p) {
  const auto products = products_of(p, false);
  quantized_linear::grad_x(products.data(), static_cast<int64_t>(products.size()));
}

}  // namespace pyllm::grouped_linear
