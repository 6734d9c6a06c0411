// Boxes for the CPU kernels that meet them in blocks: a few hundred at a time by coordinate, with the blocks' hulls.
#pragma once
#include <algorithm>
#include <limits>

#include "box_columns.h"

namespace detops {
constexpr int64_t kBlock = 64;                // boxes that share a hull
constexpr int64_t kBlocks = 8;                // that a task reads at a time
constexpr int64_t kChunk = kBlocks * kBlock;  // boxes

template <typename A>
struct alignas(64) Chunk {
  A x1[kChunk], y1[kChunk], x2[kChunk], y2[kChunk], area[kChunk];
  Box<A> hull[kBlocks];
  int64_t begin, size;

  template <typename V>
  DETOPS_HD Box<V> vector(int64_t i) const {
    return {load<V>(x1 + i), load<V>(y1 + i), load<V>(x2 + i), load<V>(y2 + i)};
  }
};

// Rows x1, y1, x2, y2 without gaps.
template <typename V, typename A, typename T>
DETOPS_HD void split_rows(const T* row, int64_t count, Chunk<A>& chunk) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(A);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes, row += 4 * kLanes) {
    const auto front = deinterleave(load<V>(row), load<V>(row + kLanes));
    const auto back = deinterleave(load<V>(row + 2 * kLanes), load<V>(row + 3 * kLanes));
    const auto x = deinterleave(front.even, back.even), y = deinterleave(front.odd, back.odd);
    store(chunk.x1 + i, x.even);
    store(chunk.y1 + i, y.even);
    store(chunk.x2 + i, x.odd);
    store(chunk.y2 + i, y.odd);
  }
  for (; i < count; ++i, row += 4) {
    chunk.x1[i] = static_cast<A>(row[0]);
    chunk.y1[i] = static_cast<A>(row[1]);
    chunk.x2[i] = static_cast<A>(row[2]);
    chunk.y2[i] = static_cast<A>(row[3]);
  }
}

template <typename Isa, typename A>
DETOPS_HD void read_chunk(const BoxView& boxes, int64_t begin, Chunk<A>& chunk) {
  using V = Vec<Isa, A>;
  const int64_t count = std::min(kChunk, boxes.size - begin);
  const bool dense = boxes.row_stride == 4 && boxes.column_stride == 1;
  const char* row = boxes.data + begin * boxes.row_stride * element_size(boxes.dtype);
  if constexpr (std::is_same_v<A, float>) {
    if (dense && boxes.dtype == ScalarType::Float) {
      split_rows<V>(reinterpret_cast<const float*>(row), count, chunk);
    } else if (dense && boxes.dtype == ScalarType::Half) {
      split_rows<V>(reinterpret_cast<const Half*>(row), count, chunk);
    } else if (dense && boxes.dtype == ScalarType::BFloat16) {
      split_rows<V>(reinterpret_cast<const BFloat16*>(row), count, chunk);
    } else {
      boxes.read(begin, count, chunk.x1, chunk.y1, chunk.x2, chunk.y2);
    }
  } else if (dense && boxes.dtype == ScalarType::Double) {
    split_rows<V>(reinterpret_cast<const double*>(row), count, chunk);
  } else {
    boxes.read(begin, count, chunk.x1, chunk.y1, chunk.x2, chunk.y2);
  }
  chunk.begin = begin;
  chunk.size = count;
  const int64_t padded = (count + kBlock - 1) / kBlock * kBlock;
  for (A* column : {chunk.x1, chunk.y1, chunk.x2, chunk.y2}) {
    std::fill(column + count, column + padded, column[count - 1]);  // leaves maxima and hulls as they are
  }
  for (int64_t block = 0; block < padded; block += kBlock) {
    const V inf = constant<V>(std::numeric_limits<A>::infinity());
    Box<V> around = {inf, inf, -inf, -inf};
    for (int64_t i = block; i < block + kBlock; i += lanes<Isa, A>) {
      const Box<V> box = chunk.template vector<V>(i);
      store(chunk.area + i, area(box));
      around = hull(around, box);  // in this order it leaves NaN out
    }
    Box<A> lane[lanes<Isa, A>];
    for (int64_t i = 0; i < lanes<Isa, A>; ++i) lane[i] = {around.x1[i], around.y1[i], around.x2[i], around.y2[i]};
    for (int64_t width = lanes<Isa, A> / 2; width > 0; width /= 2)
      for (int64_t i = 0; i < width; ++i) lane[i] = hull(lane[i], lane[i + width]);
    chunk.hull[block / kBlock] = lane[0];
  }
}
}  // namespace detops
