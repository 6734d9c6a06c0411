#include "roi_align_kernels.h"

namespace detops {
template <typename T>
void roi_align_cuda(const RoiAlignGrid& grid, const RoiAlignMapAlone& map, bool wide,
                    const RoiAlignTables<acc_t<T>>& tables, const Maps<const T>& input, const Maps<T>& output,
                    void* stream) {
  const char* op = "roi_align";
  launch_find_taps<false>(op, grid, map, wide, tables, stream);
  dispatch_layout([&](auto layout) { launch_pool(op, Mean<layout(), T>{tables}, input, output, stream); }, input,
                  output);
}

template <typename T>
void roi_align_backward_cuda(const RoiAlignGrid& grid, const RoiAlignMapAlone& map, bool wide,
                             const RoiAlignTables<acc_t<T>>& tables, const Maps<const T>& grad, const Maps<T>& output,
                             void* stream) {
  const char* op = "roi_align_backward";
  launch_find_taps<true>(op, grid, map, wide, tables, stream);
  dispatch_layout([&](auto layout) { launch_gather(op, MeanGradient<layout(), T>{tables, grad}, output, stream); },
                  grad, output);
}

#define INSTANTIATE(T)                                                                                                 \
  template void roi_align_cuda<T>(const RoiAlignGrid&, const RoiAlignMapAlone&, bool, const RoiAlignTables<acc_t<T>>&, \
                                  const Maps<const T>&, const Maps<T>&, void*);                                        \
  template void roi_align_backward_cuda<T>(const RoiAlignGrid&, const RoiAlignMapAlone&, bool,                         \
                                           const RoiAlignTables<acc_t<T>>&, const Maps<const T>&, const Maps<T>&,      \
                                           void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
}  // namespace detops
