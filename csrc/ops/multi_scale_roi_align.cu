#include "multi_scale_roi_align.h"
#include "roi_align_kernels.h"

namespace detops {
template <typename T>
void multi_scale_roi_align_cuda(const RoiAlignGrid& grid, const RoiAlignPyramid& maps, bool wide,
                                const RoiAlignTables<acc_t<T>>& tables, const Pyramid<const T>& features,
                                const Maps<T>& output, void* stream) {
  const char* op = "multi_scale_roi_align";
  launch_find_taps<false>(op, grid, maps, wide, tables, stream);
  dispatch_layout([&](auto layout) { launch_pool(op, Mean<layout(), T>{tables}, features, output, stream); }, features,
                  output);
}

template <typename T>
void multi_scale_roi_align_backward_cuda(const RoiAlignGrid& grid, const RoiAlignPyramid& maps, bool wide,
                                         const RoiAlignTables<acc_t<T>>& tables, const Maps<const T>& grad,
                                         const Pyramid<T>& outputs, void* stream) {
  const char* op = "multi_scale_roi_align_backward";
  launch_find_taps<true>(op, grid, maps, wide, tables, stream);
  dispatch_layout([&](auto layout) { launch_gather(op, MeanGradient<layout(), T>{tables, grad}, outputs, stream); },
                  grad, outputs);
}

#define INSTANTIATE(T)                                                                                        \
  template void multi_scale_roi_align_cuda<T>(const RoiAlignGrid&, const RoiAlignPyramid&, bool,              \
                                              const RoiAlignTables<acc_t<T>>&, const Pyramid<const T>&,       \
                                              const Maps<T>&, void*);                                         \
  template void multi_scale_roi_align_backward_cuda<T>(const RoiAlignGrid&, const RoiAlignPyramid&, bool,     \
                                                       const RoiAlignTables<acc_t<T>>&, const Maps<const T>&, \
                                                       const Pyramid<T>&, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
}  // namespace detops
