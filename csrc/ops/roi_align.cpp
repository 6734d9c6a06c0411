#include "roi_align.h"

#include "roi_means.h"

namespace detops {
Tensor roi_align(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                 int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  const char* op = "roi_align";
  check_pooling(op, input, rois, pooled_height, pooled_width);
  Tensor output = new_regions(input, rois.size(0), pooled_height, pooled_width);
  const RoiAlignGrid grid{pooled_height, pooled_width, sampling_ratio, aligned};
  const ScaledMapAlone map(spatial_scale, input.size(0), input.size(2), input.size(3));
  const bool wide = is_wide(input, rois);
  pool_means(op, input, rois, grid, map, output,
             [&](const auto&... args) { roi_align_cuda(grid, map, wide, args...); });
  return output;
}
DETOPS_OP(roi_align,
          "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
          "int sampling_ratio, bool aligned) -> Tensor")

Tensor roi_align_backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                          int64_t pooled_width, int64_t batch, int64_t channels, int64_t height, int64_t width,
                          int64_t sampling_ratio, bool aligned, bool channels_last) {
  const char* op = "roi_align_backward";
  check_pooling_backward(op, grad, rois, channels, pooled_height, pooled_width);
  Tensor output = new_maps(grad, {batch, channels, height, width}, channels_last);
  const RoiAlignGrid grid{pooled_height, pooled_width, sampling_ratio, aligned};
  const ScaledMapAlone map(spatial_scale, batch, height, width);
  const bool wide = is_wide(grad, rois);
  gather_means(op, grad, rois, grid, map, output,
               [&](const auto&... args) { roi_align_backward_cuda(grid, map, wide, args...); });
  return output;
}
DETOPS_OP(
    roi_align_backward,
    "(Tensor grad, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, SymInt batch, "
    "SymInt channels, SymInt height, SymInt width, int sampling_ratio, bool aligned, bool channels_last) -> Tensor")
}  // namespace detops
