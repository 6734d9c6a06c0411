#include "roi_means.h"

namespace detops {
template <typename T>
void pool_means_cpu(const MeanRegions<acc_t<T>>& regions, const Pyramid<const T>& features, const Maps<T>& output) {
  pool_regions<acc_t<T>, T>(regions, features, output);
}

template <typename T>
void gather_means_cpu(const MeanRegions<acc_t<T>>& regions, const Maps<const T>& grad, const Pyramid<T>& outputs) {
  backpropagate_regions<acc_t<T>, T>(regions, grad, outputs);
}

#define INSTANTIATE(T)                                                                                    \
  template void pool_means_cpu<T>(const MeanRegions<acc_t<T>>&, const Pyramid<const T>&, const Maps<T>&); \
  template void gather_means_cpu<T>(const MeanRegions<acc_t<T>>&, const Maps<const T>&, const Pyramid<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)
}  // namespace detops
