#include "ps_rois_host.h"

namespace detops {
Tensor ps_roi_align(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                    int64_t pooled_width, int64_t sampling_ratio) {
  return ps_roi_host("ps_roi_align", input, rois, pooled_height, pooled_width,
                     SampledBins{spatial_scale, sampling_ratio});
}
DETOPS_OP(ps_roi_align,
          "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
          "int sampling_ratio) -> Tensor")

Tensor ps_roi_align_backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t sampling_ratio,
                             int64_t batch, int64_t channels, int64_t height, int64_t width, bool channels_last) {
  return ps_roi_backward_host("ps_roi_align_backward", grad, rois, {batch, channels, height, width}, channels_last,
                              SampledBins{spatial_scale, sampling_ratio});
}
DETOPS_OP(ps_roi_align_backward,
          "(Tensor grad, Tensor rois, float spatial_scale, int sampling_ratio, SymInt batch, SymInt channels, "
          "SymInt height, SymInt width, bool channels_last) -> Tensor")
}  // namespace detops
