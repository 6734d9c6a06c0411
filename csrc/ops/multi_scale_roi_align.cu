#include "multi_scale_roi_align.h"
#include "roi_align_kernels.h"
#include "roi_mean_kernels.h"

namespace detops {
template <typename T>
void multi_scale_roi_align_cuda(const RoiAlignGrid& grid, const ScaledPyramid& maps, bool wide,
                                const TapsTables<acc_t<T>>& tables, const Pyramid<const T>& features,
                                const Maps<T>& output, void* stream) {
  const char* op = "multi_scale_roi_align";
  find_aligned_taps<false>(op, grid, maps, wide, tables, stream);
  pool_means_cuda(op, tables, features, output, stream);
}

template <typename T>
void multi_scale_roi_align_backward_cuda(const RoiAlignGrid& grid, const ScaledPyramid& maps, bool wide,
                                         const TapsTables<acc_t<T>>& tables, const Maps<const T>& grad,
                                         const Pyramid<T>& outputs, void* stream) {
  const char* op = "multi_scale_roi_align_backward";
  find_aligned_taps<true>(op, grid, maps, wide, tables, stream);
  gather_means_cuda(op, tables, grad, outputs, stream);
}

#define INSTANTIATE(T)                                                                                              \
  template void multi_scale_roi_align_cuda<T>(const RoiAlignGrid&, const ScaledPyramid&, bool,                      \
                                              const TapsTables<acc_t<T>>&, const Pyramid<const T>&, const Maps<T>&, \
                                              void*);                                                               \
  template void multi_scale_roi_align_backward_cuda<T>(const RoiAlignGrid&, const ScaledPyramid&, bool,             \
                                                       const TapsTables<acc_t<T>>&, const Maps<const T>&,           \
                                                       const Pyramid<T>&, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
}  // namespace detops
