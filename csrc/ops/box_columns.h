// Boxes for the CPU kernels: from any real dtype and any strides to one array per coordinate, as SIMD wants them.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "../core/parallel.h"
#include "../core/simd.h"
#include "../core/tensor.h"
#include "../math/box.h"
#include "raw_boxes.h"

namespace detops {
// Rows x1, y1, x2, y2 without gaps, to columns.
template <typename V, typename A, typename T>
DETOPS_HD void split_rows(const T* row, int64_t count, A* x1, A* y1, A* x2, A* y2) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(A);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes, row += 4 * kLanes) {
    const auto front = deinterleave(load<V>(row), load<V>(row + kLanes));
    const auto back = deinterleave(load<V>(row + 2 * kLanes), load<V>(row + 3 * kLanes));
    const auto x = deinterleave(front.even, back.even), y = deinterleave(front.odd, back.odd);
    store(x1 + i, x.even);
    store(y1 + i, y.even);
    store(x2 + i, x.odd);
    store(y2 + i, y.odd);
  }
  for (; i < count; ++i, row += 4) {
    x1[i] = static_cast<A>(row[0]);
    y1[i] = static_cast<A>(row[1]);
    x2[i] = static_cast<A>(row[2]);
    y2[i] = static_cast<A>(row[3]);
  }
}

// And back.
template <typename V, typename T>
DETOPS_HD void store_rows(const Box<V>& boxes, T* row) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(element_t<V>);
  const auto x = interleave(boxes.x1, boxes.x2), y = interleave(boxes.y1, boxes.y2);
  const auto front = interleave(x.a, y.a), back = interleave(x.b, y.b);
  store(row, front.a);
  store(row + kLanes, front.b);
  store(row + 2 * kLanes, back.a);
  store(row + 3 * kLanes, back.b);
}
template <typename V, typename A, typename T>
DETOPS_HD void join_rows(const A* x1, const A* y1, const A* x2, const A* y2, int64_t count, T* row) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(A);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes, row += 4 * kLanes) {
    store_rows(Box<V>{load<V>(x1 + i), load<V>(y1 + i), load<V>(x2 + i), load<V>(y2 + i)}, row);
  }
  for (; i < count; ++i, row += 4) {
    row[0] = static_cast<T>(x1[i]);
    row[1] = static_cast<T>(y1[i]);
    row[2] = static_cast<T>(x2[i]);
    row[3] = static_cast<T>(y2[i]);
  }
}

// The boxes (N, 4) of one image inside a tensor (N, 4) or (B, N, 4).
struct BoxView : RawBoxes {
  explicit BoxView(const Tensor& boxes, int64_t image = 0)
      : RawBoxes{detops::data<char>(boxes),     boxes.scalar_type(),
                 boxes.size(boxes.dim() - 2),   boxes.dim() == 3 ? boxes.stride(0) : 0,
                 boxes.stride(boxes.dim() - 2), boxes.stride(boxes.dim() - 1)} {
    data += image * image_stride * element_size(dtype);
  }

  // Boxes [begin, begin + count) into x1[0...], y1[0...], x2[0...], y2[0...].
  template <typename A>
  void read(int64_t begin, int64_t count, A* x1, A* y1, A* x2, A* y2) const {
    visit([&](const auto* boxes) {
      const auto* row = boxes + begin * row_stride;
      for (int64_t i = 0; i < count; ++i, row += row_stride) {
        x1[i] = static_cast<A>(row[0]);
        y1[i] = static_cast<A>(row[column_stride]);
        x2[i] = static_cast<A>(row[2 * column_stride]);
        y2[i] = static_cast<A>(row[3 * column_stride]);
      }
    });
  }

  // The same, faster where the boxes lie without gaps in a floating dtype that A is right for.
  template <typename V, typename A>
  DETOPS_HD void read_vectors(int64_t begin, int64_t count, A* x1, A* y1, A* x2, A* y2) const {
    const bool dense = row_stride == 4 && column_stride == 1;
    const char* row = data + begin * row_stride * element_size(dtype);
    if constexpr (std::is_same_v<A, float>) {
      if (dense && dtype == ScalarType::Float) {
        split_rows<V>(reinterpret_cast<const float*>(row), count, x1, y1, x2, y2);
      } else if (dense && dtype == ScalarType::Half) {
        split_rows<V>(reinterpret_cast<const Half*>(row), count, x1, y1, x2, y2);
      } else if (dense && dtype == ScalarType::BFloat16) {
        split_rows<V>(reinterpret_cast<const BFloat16*>(row), count, x1, y1, x2, y2);
      } else {
        read(begin, count, x1, y1, x2, y2);
      }
    } else if (dense && dtype == ScalarType::Double) {
      split_rows<V>(reinterpret_cast<const double*>(row), count, x1, y1, x2, y2);
    } else {
      read(begin, count, x1, y1, x2, y2);
    }
  }
};

// All boxes of a view as columns of A, each padded by a vector of zeros, so that a whole vector can be read at any box.
template <typename A>
class BoxColumns {
 public:
  static constexpr int64_t kPadding = 64 / sizeof(A);

  explicit BoxColumns(const BoxView& boxes)
      : size(boxes.size), pitch_((size + 2 * kPadding - 1) / kPadding * kPadding) {
    storage_.reset(static_cast<A*>(std::aligned_alloc(64, 5 * pitch_ * sizeof(A))));
    if (!storage_) throw std::bad_alloc();
    x1 = storage_.get();
    y1 = x1 + pitch_;
    x2 = y1 + pitch_;
    y2 = x2 + pitch_;
    area = y2 + pitch_;
    parallel_for(size, grain_for(1.0), [&](int64_t begin, int64_t end) {
      boxes.read(begin, end - begin, x1 + begin, y1 + begin, x2 + begin, y2 + begin);
      for (int64_t i = begin; i < end; ++i) area[i] = detops::area(Box<A>{x1[i], y1[i], x2[i], y2[i]});
    });
    for (A* column : {x1, y1, x2, y2, area}) std::fill(column + size, column + pitch_, A{});
  }

  Box<A> operator[](int64_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }

  // Boxes i, i + 1, ... as one vector.
  template <typename V>
  DETOPS_HD Box<V> vector(int64_t i) const {
    return {load<V>(x1 + i), load<V>(y1 + i), load<V>(x2 + i), load<V>(y2 + i)};
  }

  int64_t size;
  A *x1, *y1, *x2, *y2, *area;

 private:
  struct Free {
    void operator()(A* p) const { std::free(p); }
  };
  int64_t pitch_;
  std::unique_ptr<A, Free> storage_;
};

// The same box in every lane.
template <typename V, typename A>
DETOPS_HD Box<V> broadcast(const Box<A>& a) {
  return {broadcast<V>(a.x1), broadcast<V>(a.y1), broadcast<V>(a.x2), broadcast<V>(a.y2)};
}
}  // namespace detops
