// Regions (K, 5): checked; for the CPU kernels read, and put in the order in which they come down each image.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "../core/tensor.h"
#include "roi_tables.h"

namespace detops {
inline RawRois raw_rois(const Tensor& rois) {
  return {{data<char>(rois), rois.scalar_type(), rois.size(0), 0, rois.stride(0), rois.stride(1)}};
}

constexpr int64_t kRoiColumns = 5, kRotatedRoiColumns = 6;

// What every operator over regions asks of its arguments, on any device.
inline void check_rois(const char* op, const char* maps_name, const Tensor& maps, const Tensor& rois,
                       int64_t columns = kRoiColumns) {
  check_floating(op, "rois", rois);
  check_shape(op, "rois", rois, {kAny, columns});
  check_same_device(op, maps_name, maps, "rois", rois);
}
inline void check_pooled_size(const char* op, int64_t pooled_height, int64_t pooled_width) {
  if (pooled_height <= 0) fail(op, "expected pooled_height of at least 1, got ", pooled_height);
  if (pooled_width <= 0) fail(op, "expected pooled_width of at least 1, got ", pooled_width);
}
// Of pooling maps (N, C, H, W).
inline void check_pooling(const char* op, const Tensor& input, const Tensor& rois, int64_t pooled_height,
                          int64_t pooled_width, int64_t columns = kRoiColumns) {
  check_floating(op, "input", input);
  check_shape(op, "input", input, {kAny, kAny, kAny, kAny});
  check_rois(op, "input", input, rois, columns);
  check_pooled_size(op, pooled_height, pooled_width);
}
// Of its gradient, from `grad` (K, C, PH, PW) alone.
inline void check_pooling_backward(const char* op, const Tensor& grad, const Tensor& rois, int64_t channels,
                                   int64_t pooled_height, int64_t pooled_width, int64_t columns = kRoiColumns) {
  check_floating(op, "grad", grad);
  check_rois(op, "grad", grad, rois, columns);
  check_pooled_size(op, pooled_height, pooled_width);
  check_shape(op, "grad", grad, {rois.size(0), channels, pooled_height, pooled_width});
}
// The same where the gradient depends on the input too.
inline void check_pooling_backward(const char* op, const Tensor& grad, const Tensor& input, const Tensor& rois,
                                   int64_t pooled_height, int64_t pooled_width) {
  check_pooling(op, input, rois, pooled_height, pooled_width);
  check_shape(op, "grad", grad, {rois.size(0), input.size(1), pooled_height, pooled_width});
  check_same_dtype(op, "input", input, "grad", grad);
  check_same_device(op, "input", input, "grad", grad);
}

// Geometry is float64 if either tensor is.
inline bool is_wide(const Tensor& maps, const Tensor& rois) {
  return maps.scalar_type() == ScalarType::Double || rois.scalar_type() == ScalarType::Double;
}

// Fails on an image index outside [0, images).
template <typename G>
std::vector<Roi<G>> read_rois(const char* op, const Tensor& rois, int64_t images) {
  std::vector<Roi<G>> result(rois.size(0));
  dispatch_floating(op, rois, [&](auto type) {
    using T = typename decltype(type)::type;
    const T* row = data<T>(rois);
    const int64_t row_stride = rois.stride(0), stride = rois.stride(1);
    for (size_t k = 0; k < result.size(); ++k, row += row_stride) {
      const auto value = [&](int64_t column) { return static_cast<G>(row[column * stride]); };
      const int64_t image = image_index(value(0), images);
      if (image < 0) fail(op, "expected rois[:, 0] from 0 to ", images - 1, ", got ", value(0), " in row ", k);
      result[k] = {image, {value(1), value(2), value(3), value(4)}};
    }
  });
  return result;
}

// The tables count in 32 bits.
inline void check_tables(const char* op, const Tensor& rois, int64_t height, int64_t width) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (rois.size(0) > kMost) fail(op, "expected at most 2^31 - 1 rois, got ", rois.size(0));
  if (height > kMost || width > kMost)
    fail(op, "expected at most 2^31 - 1 rows and columns, got ", height, ", ", width);
}
// Memory for the tables, which lasts as long as the result.
template <typename Tables>
Tensor place_tables(Tables& tables, const Tensor& like, bool for_gradient) {
  Arena counting;
  tables.place(counting, for_gradient);
  Tensor memory = new_tensor<1>(like, {counting.used()}, ScalarType::Byte);
  Arena arena(mutable_data<char>(memory));
  tables.place(arena, for_gradient);
  return memory;
}

// Consecutive regions of one image, as positions in an order.
struct RoiGroup {
  int64_t image, begin, end;
};

// Sorted by image, then by `row(k)`, the first row that region k touches: neighbours share what is in the cache.
struct RoiOrder {
  std::vector<int64_t> rois;
  std::vector<RoiGroup> groups;

  template <typename Image, typename Row>
  RoiOrder(int64_t num_rois, const Image& image, const Row& row) {
    struct Key {
      int64_t image, row, roi;
      bool operator<(const Key& other) const {
        return image != other.image ? image < other.image : row != other.row ? row < other.row : roi < other.roi;
      }
    };
    std::vector<Key> keys(num_rois);
    for (int64_t k = 0; k < num_rois; ++k) keys[k] = {image(k), row(k), k};
    std::sort(keys.begin(), keys.end());
    rois.reserve(num_rois);
    for (const Key& key : keys) {
      const auto position = static_cast<int64_t>(rois.size());
      if (groups.empty() || groups.back().image != key.image) groups.push_back({key.image, position, position});
      rois.push_back(key.roi);
      groups.back().end = position + 1;
    }
  }
};
}  // namespace detops
