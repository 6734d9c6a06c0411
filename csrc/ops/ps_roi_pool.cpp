#include "ps_rois_host.h"

namespace detops {
Tensor ps_roi_pool(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                   int64_t pooled_width) {
  return ps_roi_host("ps_roi_pool", input, rois, pooled_height, pooled_width, WholeBins{spatial_scale});
}
DETOPS_OP(ps_roi_pool,
          "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) -> Tensor")

Tensor ps_roi_pool_backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t batch,
                            int64_t channels, int64_t height, int64_t width, bool channels_last) {
  return ps_roi_backward_host("ps_roi_pool_backward", grad, rois, {batch, channels, height, width}, channels_last,
                              WholeBins{spatial_scale});
}
DETOPS_OP(ps_roi_pool_backward,
          "(Tensor grad, Tensor rois, float spatial_scale, SymInt batch, SymInt channels, SymInt height, "
          "SymInt width, bool channels_last) -> Tensor")
}  // namespace detops
