#include "ops/rope/rope.h"

#include <optional>
#include <tuple>

#include "bindings/torch/device.h"

namespace pyllm::binding {
namespace {

constexpr const char* kOp = "rope";

// What q and k have in common.
struct Angles {
  Tensor cos, sin;
  std::optional<Tensor> positions;
  bool interleaved, inverse;
};

void check_tables(const Tensor& q, const Tensor& cos, const Tensor& sin) {
  check(cos.dim() == 2 && 2 * cos.size(1) <= q.size(3), kOp,
        "cos must be (positions, rotary_dim / 2) with rotary_dim <= head_dim");
  check_same_shape(cos, sin, kOp, "sin");
  check(cos.scalar_type() == accumulator_type(q) && sin.scalar_type() == accumulator_type(q), kOp,
        "cos and sin must be float32, float64 for float64 q");
}

void check_inputs(const Tensor& q, const Tensor& k) {
  check(q.dim() == 4 && k.dim() == 4, kOp, "q and k must be (batch, heads, len, head_dim)");
  check(k.size(0) == q.size(0) && k.size(2) == q.size(2) && k.size(3) == q.size(3), kOp,
        "k must have q's batch, len and head_dim");
  check_same_kind(q, k, kOp, "k");
}

// Every row of cos and sin that will be read exists: checked before anything is written. On a GPU that would
// mean to wait for it; there its kernel gives NaN where a row does not exist.
void check_positions(const Tensor& q, const Tensor& cos, const std::optional<Tensor>& positions) {
  if (!positions) {
    check(q.size(2) <= cos.size(0), kOp, "cos and sin must have a row for each of q's positions");
    return;
  }
  check(positions->scalar_type() == ScalarType::Long && positions->dim() >= 1 && positions->dim() <= 2 &&
            positions->size(positions->dim() - 1) == q.size(2) &&
            (positions->dim() == 1 || positions->size(0) == 1 || positions->size(0) == q.size(0)),
        kOp, "position_ids must be int64 and (len,), (1, len) or (batch, len)");
  check(positions->numel() == 0 || cos.size(0) > 0, kOp, "cos and sin must have rows");
  if (!positions->is_cpu()) return;
  const int64_t* ids = static_cast<const int64_t*>(positions->const_data_ptr());
  for (int64_t i = 0; i < positions->numel(); ++i) {
    check(ids[i] >= 0 && ids[i] < cos.size(0), kOp,
          "position_ids must lie in [0, " + std::to_string(cos.size(0)) + "), the rows of cos and sin, got " +
              std::to_string(ids[i]));
  }
}

Tensor rotate(const Tensor& x_any, const Angles& angles) {
  const Tensor x = x_any.stride(3) == 1 ? x_any : dense(x_any);
  Tensor out = empty(x, shape_of(x));
  const auto& positions = angles.positions;
  pyllm::rope::rotate(
      {.dtype = dtype_of(x, kOp, "q"),
       .batch = x.size(0),
       .heads = x.size(1),
       .length = x.size(2),
       .head_dim = x.size(3),
       .pairs = angles.cos.size(1),
       .x = x.const_data_ptr(),
       .batch_stride = x.stride(0),
       .head_stride = x.stride(1),
       .row_stride = x.stride(2),
       .out = out.mutable_data_ptr(),
       .cos = angles.cos.const_data_ptr(),
       .sin = angles.sin.const_data_ptr(),
       .table_rows = angles.cos.size(0),
       .positions = positions ? static_cast<const int64_t*>(positions->const_data_ptr()) : nullptr,
       .positions_batch_stride = positions && positions->numel() > x.size(2) ? x.size(2) : 0,
       .interleaved = angles.interleaved,
       .inverse = angles.inverse});
  return out;
}

std::tuple<Tensor, Tensor> rope(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin,
                                std::optional<Tensor> position_ids, bool interleaved, bool inverse) {
  check_inputs(q, k);
  check_tables(q, cos, sin);
  const OnDevice device(kOp, {&q, &k, &cos, &sin, address(position_ids)});
  Angles angles = {dense(cos), dense(sin), std::nullopt, interleaved, inverse};
  if (position_ids) angles.positions = dense(*position_ids);
  check_positions(q, cos, angles.positions);
  return {rotate(q, angles), rotate(k, angles)};
}

}  // namespace

PYLLM_SCHEMAS(m) {
  m.def(
      "rope(Tensor q, Tensor k, Tensor cos, Tensor sin, Tensor? position_ids, bool interleaved, bool "
      "inverse) "
      "-> (Tensor, Tensor)");
}

PYLLM_KERNELS(m) { m.impl("rope", TORCH_BOX(&rope)); }

}  // namespace pyllm::binding
