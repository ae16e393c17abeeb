// Several products as one parallel loop. A product is cut into parts (groups of panels, or chunks of inputs);
// threads share out the parts by their cost, so that experts with few rows and with many keep all busy.
#pragma once

#include <deque>

#include "core/parallel.h"
#include "ops/quantized_linear/codec_of.h"
#include "ops/quantized_linear/quantized_linear.h"
#include "ops/quantized_linear/scales.h"

namespace pyllm::quantized_linear {
namespace {

constexpr int64_t kForkCost = 64;  // that pays for a fork

// Parts of a product, all of one cost: units of codes times rows, the codes' own reading counted as a row.
struct Cut {
  int64_t parts, cost;
};
[[maybe_unused]] inline Cut cut(const Product& p, int64_t parts) {
  return {parts, 1 + p.weight.layout.panels * p.weight.layout.units * (p.rows + 1) / larger(1, parts)};
}

// A product, its codes, and its left operand as kernels read it.
template <class X>
struct Job {
  Product p;
  const Codec& codec;
  Table table;
  const X& x;
  Cut cut;
  int64_t first_cost;  // of the products before
};

// X(product, codec) prepares a left operand; X::same(a, b) says that two products share it.
template <class X>
class Jobs {
 public:
  template <class CutOf>
  Jobs(const Product* products, int64_t count, const CutOf& cut_of) {
    for (const Product* p = products; p < products + count; ++p) {
      if (p->rows == 0) continue;
      const Codec& codec = codec_of(*p->weight.format);
      if (jobs_.empty() || !X::same(jobs_.back().p, *p)) prepared_.emplace_back(*p, codec);
      const Cut cut = cut_of(*p);
      jobs_.push_back({*p, codec, table_of(*p->weight.format), prepared_.back(), cut, cost_});
      cost_ += cut.parts * cut.cost;
    }
  }

  // f(job, part) for every part of every product, in parallel: whoever's stretch of the costs a part begins
  // in.
  template <class F>
  void for_each_part(const F& f) const {
    parallel_for(0, cost_, kForkCost, [&](int64_t begin, int64_t end) {
      for (const Job<X>& job : jobs_) {
        const int64_t cost = job.cut.cost, last = ceil_div(end - job.first_cost, cost);
        int64_t part = larger(0, ceil_div(begin - job.first_cost, cost));
        for (; part < smaller(last, job.cut.parts); ++part) f(job, part);
      }
    });
  }

 private:
  std::deque<X> prepared_;
  std::deque<Job<X>> jobs_;
  int64_t cost_ = 0;
};

// Both products have the same left operand, and weights whose inputs are summed in groups of one size.
[[maybe_unused]] inline bool same_left(const Product& a, const Product& b) {
  return a.left == b.left && a.rows == b.rows && a.stride == b.stride && a.dtype == b.dtype &&
         a.weight.layout.inputs == b.weight.layout.inputs && a.weight.format->group == b.weight.format->group;
}

}  // namespace
}  // namespace pyllm::quantized_linear
