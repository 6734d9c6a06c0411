// Non-maximum suppression on the CPU: of one image, on the threads there are for its classes.
#pragma once
#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "../core/radix_sort.h"
#include "../core/sort_key.h"
#include "box_columns.h"
#include "nms.h"

namespace detops {
template <typename T>
std::unique_ptr<T[]> uninitialised(int64_t n) {
  return std::unique_ptr<T[]>(new T[n]);
}

struct NmsImage {
  BoxView boxes;
  RawNumbers scores;  // of this image
  std::optional<RawNumbers> classes;
  std::optional<double> score_threshold;
};

struct Indices {
  std::unique_ptr<uint32_t[]> data;
  int64_t size;
};

// The boxes above the score threshold, highest score first.
inline Indices by_score(const NmsImage& image) {
  const int64_t n = image.boxes.size;
  Indices order{uninitialised<uint32_t>(n), 0};
  dispatch_type(image.scores.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using Key = decltype(ascending_key(sortable_t<S>()));
    const auto items = uninitialised<Ranked<Key>>(2 * n);
    const S* scores = reinterpret_cast<const S*>(image.scores.data);
    const double least = image.score_threshold.value_or(0);
    int64_t size = 0;
    for (int64_t i = 0; i < n; ++i) {
      const auto score = static_cast<sortable_t<S>>(scores[i * image.scores.stride]);
      items[size] = {static_cast<Key>(~ascending_key(score)), static_cast<uint32_t>(i)};
      size += !image.score_threshold || static_cast<double>(score) > least;
    }
    const Ranked<Key>* sorted = radix_sort(items.get(), items.get() + n, size);
    for (int64_t i = 0; i < size; ++i) order.data[i] = sorted[i].index;
    order.size = size;
  });
  return order;
}

// Positions in the order of score, class by class.
struct Segments {
  std::unique_ptr<uint32_t[]> positions;
  std::vector<int64_t> begins;  // and the end of the last

  template <typename Key>
  Segments(const Key* keys, int64_t n) : positions(uninitialised<uint32_t>(n)) {
    const auto items = uninitialised<Ranked<Key>>(2 * n);
    for (int64_t i = 0; i < n; ++i) items[i] = {keys[i], static_cast<uint32_t>(i)};
    const Ranked<Key>* sorted = radix_sort(items.get(), items.get() + n, n);
    for (int64_t i = 0; i < n; ++i) {
      if (i == 0 || sorted[i].key != sorted[i - 1].key) begins.push_back(i);
      positions[i] = sorted[i].index;
    }
    begins.push_back(n);
  }

  // The first segment that begins at a position or after it.
  std::vector<int64_t>::const_iterator at(int64_t position) const {
    return std::lower_bound(begins.begin(), begins.end(), position);
  }
};

inline std::optional<Segments> by_class(const RawNumbers& classes, const Indices& order) {
  std::optional<Segments> segments;
  dispatch_type(classes.dtype, [&](auto type) {
    using I = typename decltype(type)::type;
    using Key = decltype(ascending_key(sortable_t<I>()));
    const auto keys = uninitialised<Key>(order.size);
    Key least = ~Key{0}, most = 0;
    for (int64_t i = 0; i < order.size; ++i) {
      const I of_box = reinterpret_cast<const I*>(classes.data)[order.data[i] * classes.stride];
      keys[i] = ascending_key(static_cast<sortable_t<I>>(of_box));
      least = std::min(least, keys[i]);
      most = std::max(most, keys[i]);
    }
    if (sizeof(Key) > 4 && most - least <= ~uint32_t{0}) {
      const auto small = uninitialised<uint32_t>(order.size);
      for (int64_t i = 0; i < order.size; ++i) small[i] = static_cast<uint32_t>(keys[i] - least);
      segments.emplace(small.get(), order.size);
    } else {
      segments.emplace(keys.get(), order.size);
    }
  });
  return segments;
}

// The suppression of one image's boxes by a rule, to be specialised: in memory for n boxes, in pieces that may run at
// the same time. run(piece, begin, end, row, limit, keep) decides boxes row(begin), ..., row(end - 1), best first,
// until `limit` are kept, writes their positions, counted from begin, and returns their number.
template <typename Rule>
class Suppression;

// The first `limit` boxes of one image that are kept, highest score first.
template <typename Rule>
Indices nms_cpu(const NmsImage& image, const Rule& rule, int64_t limit) {
  const Indices order = by_score(image);
  Indices keep{uninitialised<uint32_t>(order.size), 0};
  const std::optional<Segments> segments = image.classes ? by_class(*image.classes, order) : std::nullopt;
  if (!segments) {
    const Suppression<Rule> suppression(rule, image.boxes, order.size, 1);
    keep.size = suppression.run(0, 0, order.size, [&](int64_t i) { return order.data[i]; }, limit, keep.data.get());
    for (int64_t i = 0; i < keep.size; ++i) keep.data[i] = order.data[keep.data[i]];
    return keep;
  }
  const int64_t pieces = std::clamp<int64_t>(order.size / grain_for(60), 1, num_threads());
  const Suppression<Rule> suppression(rule, image.boxes, order.size, pieces);
  const auto is_kept = std::make_unique<bool[]>(order.size);
  parallel_for(pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      const auto from = segments->at(order.size * piece / pieces);
      const auto to = segments->at(order.size * (piece + 1) / pieces);
      for (auto segment = from; segment != to; ++segment) {
        const int64_t begin = segment[0], end = segment[1];
        const uint32_t* positions = segments->positions.get();
        const auto row = [&](int64_t i) { return order.data[positions[i]]; };
        uint32_t* kept_here = keep.data.get() + begin;
        const int64_t kept = suppression.run(piece, begin, end, row, limit, kept_here);
        for (int64_t i = 0; i < kept; ++i) is_kept[positions[begin + kept_here[i]]] = true;
      }
    }
  });
  for (int64_t i = 0; i < order.size && keep.size < limit; ++i) {
    keep.data[keep.size] = order.data[i];
    keep.size += is_kept[i];
  }
  return keep;
}
}  // namespace detops
