#include "roi_align_kernels.h"
#include "roi_mean_kernels.h"

namespace detops {
template <typename T>
void roi_align_cuda(const RoiAlignGrid& grid, const ScaledMapAlone& map, bool wide, const TapsTables<acc_t<T>>& tables,
                    const Maps<const T>& input, const Maps<T>& output, void* stream) {
  const char* op = "roi_align";
  find_aligned_taps<false>(op, grid, map, wide, tables, stream);
  pool_means_cuda(op, tables, input, output, stream);
}

template <typename T>
void roi_align_backward_cuda(const RoiAlignGrid& grid, const ScaledMapAlone& map, bool wide,
                             const TapsTables<acc_t<T>>& tables, const Maps<const T>& grad, const Maps<T>& output,
                             void* stream) {
  const char* op = "roi_align_backward";
  find_aligned_taps<true>(op, grid, map, wide, tables, stream);
  gather_means_cuda(op, tables, grad, output, stream);
}

#define INSTANTIATE(T)                                                                                               \
  template void pool_means_cuda<T>(const char*, const TapsTables<acc_t<T>>&, const Maps<const T>&, const Maps<T>&,   \
                                   void*);                                                                           \
  template void gather_means_cuda<T>(const char*, const TapsTables<acc_t<T>>&, const Maps<const T>&, const Maps<T>&, \
                                     void*);                                                                         \
  template void roi_align_cuda<T>(const RoiAlignGrid&, const ScaledMapAlone&, bool, const TapsTables<acc_t<T>>&,     \
                                  const Maps<const T>&, const Maps<T>&, void*);                                      \
  template void roi_align_backward_cuda<T>(const RoiAlignGrid&, const ScaledMapAlone&, bool,                         \
                                           const TapsTables<acc_t<T>>&, const Maps<const T>&, const Maps<T>&, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
}  // namespace detops
