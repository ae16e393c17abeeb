// Which operand plays A, which B, and which of the two stays: chosen from the shape by counted cost. Every
// choice gives the same bits, because the two factors of a tile product commute. Included by amx.cpp.
#pragma once

#include <utility>

#include "ops/linear/amx_pack.h"

namespace pyllm::linear {
namespace {

constexpr int64_t kResidentRows = 512;          // of the packed operand that all tasks share
constexpr int64_t kResidentBytes = 8 << 20;     // fewer rows where they are long,
constexpr int64_t kLeastResidentRows = 64;      // but not fewer than these
constexpr int64_t kInPlaceRows = 4 * kAmxRows;  // up to here the other operand may be read unpacked, once

// Cycles per element, by count of loads, shuffles and stores. Only their proportions matter.
constexpr double kCopyCost = 0.04, kInterleaveCost = 0.05, kTransposeCost = 0.1;
constexpr double kTransposedOutCost = 0.15;
constexpr double kResidentCost = 0.05;  // written to the outer caches and read by every thread

struct Plan {
  Side resident, streamed;
  Role resident_role;
  bool resident_is_left, in_place;

  Role streamed_role() const { return resident_role == Role::a ? Role::b : Role::a; }
  // Tiles of sums come as rows of out if A is the left operand, otherwise transposed.
  bool transposed_out() const { return resident_is_left != (resident_role == Role::a); }
};

inline double pack_cost(const Side& side, Role role) {
  const double transpose = (role == Role::a) == side.rows_contiguous() ? kTransposeCost : 0;
  const double rearrange = side.rows_contiguous() ? kInterleaveCost : role == Role::a ? kCopyCost : 0;
  return (transpose + rearrange) * static_cast<double>(side.rows) * static_cast<double>(side.depth);
}

inline double cost(const Plan& plan) {
  const int64_t passes = ceil_div(plan.resident.rows, kResidentRows);
  const double streamed = plan.in_place ? 0 : pack_cost(plan.streamed, plan.streamed_role());
  const double elements = static_cast<double>(plan.resident.rows) * static_cast<double>(plan.streamed.rows);
  const double resident =
      pack_cost(plan.resident, plan.resident_role) +
      kResidentCost * static_cast<double>(plan.resident.rows) * static_cast<double>(plan.resident.depth);
  return resident + static_cast<double>(passes) * streamed +
         (plan.transposed_out() ? kTransposedOutCost * elements : 0);
}

inline Plan make_plan(const Product& p, Role resident_role, bool resident_is_left) {
  const Side left = {p.left, p.rows, p.depth}, right = {p.right, p.columns, p.depth};
  Plan plan = {resident_is_left ? left : right, resident_is_left ? right : left, resident_role,
               resident_is_left, false};
  plan.in_place =
      plan.streamed_role() == Role::a && plan.streamed.k_contiguous() && plan.resident.rows <= kInPlaceRows;
  return plan;
}

inline Plan cheapest_plan(const Product& p) {
  Plan best = make_plan(p, Role::a, true);
  constexpr std::pair<Role, bool> kOthers[] = {{Role::b, true}, {Role::a, false}, {Role::b, false}};
  for (const auto& [role, is_left] : kOthers) {
    const Plan plan = make_plan(p, role, is_left);
    if (cost(plan) < cost(best)) best = plan;
  }
  return best;
}

}  // namespace
}  // namespace pyllm::linear
