// Which operand of a bf16 product plays A and which B, and which of the two stays: chosen from the shape by
// counted cost. Every choice gives the same bits, because the two factors of a product commute. Included by
// amx.cpp and avx512_bf16.cpp.
#pragma once

#include "core/tile_pack.h"
#include "ops/linear/linear.h"

namespace pyllm::linear {
namespace {

constexpr int64_t kResidentRows = 512;       // of the packed operand that all tasks share
constexpr int64_t kResidentBytes = 8 << 20;  // fewer rows where they are long,
constexpr int64_t kLeastResidentRows = 64;   // but not fewer than these

// Cycles per element, by count of loads, shuffles and stores. Only their proportions matter.
constexpr double kCopyCost = 0.04, kInterleaveCost = 0.05, kTransposeCost = 0.1;
constexpr double kTransposedOutCost = 0.15;
constexpr double kResidentCost = 0.05;  // written to the outer caches and read by every thread

struct Plan {
  Side resident, streamed;
  Form resident_form, streamed_form;
  bool resident_is_a;
  bool transposed_out;    // tiles of sums are rows of out where A is the left operand
  bool in_place = false;  // the streamed operand is read once and not packed
};

inline double pack_cost(const Side& side, Form form) {
  const double transpose = (form == Form::rows) == side.rows_contiguous() ? kTransposeCost : 0;
  const double rearrange = side.rows_contiguous() ? kInterleaveCost : form == Form::rows ? kCopyCost : 0;
  return (transpose + rearrange) * static_cast<double>(side.rows) * static_cast<double>(side.depth);
}

inline double cost(const Plan& plan) {
  const double resident_rows = static_cast<double>(plan.resident.rows);
  const double resident = pack_cost(plan.resident, plan.resident_form) +
                          kResidentCost * resident_rows * static_cast<double>(plan.resident.depth);
  const double passes = static_cast<double>(ceil_div(plan.resident.rows, kResidentRows));
  const double streamed = plan.in_place ? 0 : passes * pack_cost(plan.streamed, plan.streamed_form);
  const double out = resident_rows * static_cast<double>(plan.streamed.rows);
  return resident + streamed + (plan.transposed_out ? kTransposedOutCost * out : 0);
}

// `a` and `b` are the forms that the product wants of its operands.
inline Plan make_plan(const Product& p, bool resident_is_left, bool resident_is_a, Form a, Form b) {
  const Side left = {p.left.data, p.left.stride, p.left.stride_k, p.rows, p.depth};
  const Side right = {p.right.data, p.right.stride, p.right.stride_k, p.columns, p.depth};
  return {.resident = resident_is_left ? left : right,
          .streamed = resident_is_left ? right : left,
          .resident_form = resident_is_a ? a : b,
          .streamed_form = resident_is_a ? b : a,
          .resident_is_a = resident_is_a,
          .transposed_out = resident_is_left != resident_is_a};
}

inline const Plan& cheaper(const Plan& one, const Plan& other) {
  return cost(other) < cost(one) ? other : one;
}

}  // namespace
}  // namespace pyllm::linear
