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

template <typename Isa, typename A>
DETOPS_HD void read_chunk(const BoxView& boxes, int64_t begin, Chunk<A>& chunk) {
  using V = Vec<Isa, A>;
  const int64_t count = std::min(kChunk, boxes.size - begin);
  boxes.read_vectors<V>(begin, count, chunk.x1, chunk.y1, chunk.x2, chunk.y2);
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
