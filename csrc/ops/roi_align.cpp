#include "roi_align_host.h"

namespace detops {
Tensor roi_align(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                 int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  const char* op = "roi_align";
  check_floating(op, "input", input);
  check_shape(op, "input", input, {kAny, kAny, kAny, kAny});
  check_rois(op, "input", input, rois);
  check_pooled_size(op, pooled_height, pooled_width);
  Tensor output = new_regions(input, rois.size(0), pooled_height, pooled_width);
  const RoiAlignGrid grid{pooled_height, pooled_width, sampling_ratio, aligned};
  const ScaledMapAlone map(spatial_scale, input.size(0), input.size(2), input.size(3));
  dispatch_floating(op, input, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    dispatch_device(
        input,
        [&] {
          const auto regions = aligned_regions<A>(op, input, rois, grid, map);
          if (rois.size(0) == 0 || input.size(1) == 0) return;
          pool_regions<A>(regions, maps_of<const T>(input), maps_of<T>(output));
        },
        [&](void* stream) {
          check_tables(op, rois, input.size(2), input.size(3));
          if (output.numel() == 0) return;
          auto tables = aligned_tables<A>(rois, grid, map);
          const Tensor memory = place_tables(tables, input, false);
          roi_align_cuda<T>(grid, map, is_wide(input, rois), tables, maps_of<const T>(input), maps_of<T>(output),
                            stream);
        });
  });
  return output;
}
DETOPS_OP(roi_align,
          "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
          "int sampling_ratio, bool aligned) -> Tensor")

Tensor roi_align_backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                          int64_t pooled_width, int64_t batch, int64_t channels, int64_t height, int64_t width,
                          int64_t sampling_ratio, bool aligned, bool channels_last) {
  const char* op = "roi_align_backward";
  check_floating(op, "grad", grad);
  check_rois(op, "grad", grad, rois);
  check_pooled_size(op, pooled_height, pooled_width);
  check_shape(op, "grad", grad, {rois.size(0), channels, pooled_height, pooled_width});
  Tensor output = new_maps(grad, {batch, channels, height, width}, channels_last);
  const RoiAlignGrid grid{pooled_height, pooled_width, sampling_ratio, aligned};
  const ScaledMapAlone map(spatial_scale, batch, height, width);
  dispatch_floating(op, grad, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    dispatch_device(
        grad,
        [&] {
          auto regions = aligned_regions<A>(op, grad, rois, grid, map);
          if (output.numel() == 0) return;
          regions.y_taps = regions.y_taps.transposed();
          regions.x_taps = regions.x_taps.transposed();
          const Maps<const T> grads = maps_of<const T>(grad);
          backpropagate_regions<A>(regions, grads, grads, maps_of<T>(output));
        },
        [&](void* stream) {
          check_tables(op, rois, height, width);
          if (output.numel() == 0) return;
          auto tables = aligned_tables<A>(rois, grid, map);
          const Tensor memory = place_tables(tables, grad, true);
          roi_align_backward_cuda<T>(grid, map, is_wide(grad, rois), tables, maps_of<const T>(grad), maps_of<T>(output),
                                     stream);
        });
  });
  return output;
}
DETOPS_OP(
    roi_align_backward,
    "(Tensor grad, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, SymInt batch, "
    "SymInt channels, SymInt height, SymInt width, int sampling_ratio, bool aligned, bool channels_last) -> Tensor")
}  // namespace detops
