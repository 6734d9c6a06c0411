// Images as the host routines see them: pixels of any strides coming in, planes of their own inside.
#pragma once
#include <cstdint>
#include <vector>

namespace detops {
// An (H, W, 3) image of bytes that someone else owns; strides in bytes.
struct ImageView {
  const uint8_t* data;
  int64_t height, width, row_stride, column_stride, channel_stride;

  const uint8_t* pixel(int64_t y, int64_t x) const { return data + y * row_stride + x * column_stride; }
};

// `count` planes of height × width values, one after the other.
template <typename T>
struct Planes {
  int64_t count, height, width;
  std::vector<T> values;

  Planes(int64_t count, int64_t height, int64_t width)
      : count(count), height(height), width(width), values(count * height * width) {}

  T* row(int64_t plane, int64_t y) { return values.data() + (plane * height + y) * width; }
  const T* row(int64_t plane, int64_t y) const { return values.data() + (plane * height + y) * width; }
};
}  // namespace detops
