#include "nms_host.h"
#include "nms_upright.h"

namespace detops {
namespace {
auto with_rule(double iou_threshold) {
  return [=](const Tensor& boxes, const auto& fn) {
    in_double(boxes.scalar_type()) ? fn(NmsRule<double>(iou_threshold)) : fn(NmsRule<float>(iou_threshold));
  };
}
}  // namespace

Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  return nms_host({"nms", "boxes", 4, "idxs"}, boxes, scores, nullptr, iou_threshold, with_rule(iou_threshold));
}
DETOPS_OP(nms, "(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")

Tensor batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs, double iou_threshold) {
  return nms_host({"batched_nms", "boxes", 4, "idxs"}, boxes, scores, &idxs, iou_threshold, with_rule(iou_threshold));
}
DETOPS_OP(batched_nms, "(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor")

std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores, double iou_threshold,
                                      int64_t max_output, const std::optional<Tensor>& idxs,
                                      std::optional<double> score_threshold) {
  return nms_padded_host({"nms_padded", "boxes", 4, "idxs"}, boxes, scores, idxs ? &*idxs : nullptr, iou_threshold,
                         max_output, score_threshold, with_rule(iou_threshold));
}
DETOPS_OP(nms_padded,
          "(Tensor boxes, Tensor scores, float iou_threshold, SymInt max_output, Tensor? idxs=None, "
          "float? score_threshold=None) -> (Tensor, Tensor)")
}  // namespace detops
