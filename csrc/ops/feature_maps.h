// Feature maps and pooled regions as all kernels take them.
#pragma once
#include <cstdint>

#include "../core/device.h"

namespace detops {
// A tensor (N, C, H, W), or (K, C, PH, PW), of any strides.
template <typename T>
struct Maps {
  T* data;
  int64_t size, channels, height, width;
  int64_t stride, channel_stride, row_stride, pixel_stride;  // in elements

  DETOPS_HD T* at(int64_t n, int64_t c) const { return data + n * stride + c * channel_stride; }
  DETOPS_HD bool interleaved() const { return channel_stride == 1 && pixel_stride != 1; }  // channels_last
};
}  // namespace detops
