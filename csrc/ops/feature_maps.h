// Feature maps and pooled regions as all kernels take them. Where these are maps of several levels, image i of level l
// of N images counts as image l * N + i.
#pragma once
#include <cstdint>

#include "../core/device.h"

namespace detops {
struct ImageOfLevel {
  int level;
  int64_t image;
};

// A tensor (N, C, H, W), or (K, C, PH, PW), of any strides.
template <typename T>
struct Maps {
  T* data;
  int64_t size, channels, height, width;
  int64_t stride, channel_stride, row_stride, pixel_stride;  // in elements

  DETOPS_HD T* at(int64_t n, int64_t c) const { return data + n * stride + c * channel_stride; }
  DETOPS_HD bool interleaved() const { return channel_stride == 1 && pixel_stride != 1; }  // channels_last

  // As a pyramid of one level.
  static constexpr int kMostLevels = 1;
  DETOPS_HD int count() const { return 1; }
  DETOPS_HD const Maps& level(int) const { return *this; }
  DETOPS_HD ImageOfLevel place(int64_t image) const { return {0, image}; }
};

// A feature pyramid: maps of the same images and channels in several sizes.
template <typename T>
struct Pyramid {
  static constexpr int kMostLevels = 8;
  Maps<T> levels[kMostLevels];
  int num_levels;

  Pyramid() : levels{}, num_levels(0) {}
  Pyramid(const Maps<T>& only) : levels{only}, num_levels(1) {}

  void add(const Maps<T>& maps) { levels[num_levels++] = maps; }

  DETOPS_HD int count() const { return num_levels; }
  DETOPS_HD const Maps<T>& level(int i) const { return levels[i]; }
  DETOPS_HD ImageOfLevel place(int64_t image) const {  // a division would take longer
    int i = 0;
    for (; image >= levels[0].size && i + 1 < num_levels; ++i) image -= levels[0].size;
    return {i, image};
  }
};
}  // namespace detops
