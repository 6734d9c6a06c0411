// Stable sorting of keys with their indices.
#pragma once
#include <algorithm>
#include <cstdint>

namespace detops {
template <typename Key>
struct Ranked {
  Key key;
  uint32_t index;
};

namespace radix_detail {
constexpr int64_t kInsertion = 48;  // below: insertion sort
constexpr int64_t kWide = 3000;     // above: fewer passes pay for longer tables

template <typename Key>
void insertion_sort(Ranked<Key>* items, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const Ranked<Key> item = items[i];
    int64_t j = i;
    for (; j > 0 && item.key < items[j - 1].key; --j) items[j] = items[j - 1];
    items[j] = item;
  }
}

template <int kBits, typename Key>
Ranked<Key>* sort_by_digits(Ranked<Key>* items, Ranked<Key>* scratch, int64_t n) {
  constexpr int kDigits = (8 * sizeof(Key) + kBits - 1) / kBits;
  constexpr uint32_t kSize = 1u << kBits;
  uint32_t counts[kDigits][kSize] = {};
  for (int64_t i = 0; i < n; ++i) {
    for (int d = 0; d < kDigits; ++d) ++counts[d][items[i].key >> d * kBits & (kSize - 1)];
  }
  for (int d = 0; d < kDigits; ++d) {
    uint32_t* next = counts[d];
    if (next[items[0].key >> d * kBits & (kSize - 1)] == n) continue;  // all alike here
    uint32_t total = 0;
    for (uint32_t digit = 0; digit < kSize; ++digit) {
      const uint32_t count = next[digit];
      next[digit] = total;
      total += count;
    }
    for (int64_t i = 0; i < n; ++i) scratch[next[items[i].key >> d * kBits & (kSize - 1)]++] = items[i];
    std::swap(items, scratch);
  }
  return items;
}
}  // namespace radix_detail

// Sorts fewer than 2^32 items, lowest key first, equal keys in the order given; a key is unsigned. The result is in
// `items` or in `scratch`, of the same size: the one returned.
template <typename Key>
Ranked<Key>* radix_sort(Ranked<Key>* items, Ranked<Key>* scratch, int64_t n) {
  if (n <= radix_detail::kInsertion) {
    radix_detail::insertion_sort(items, n);
    return items;
  }
  return n < radix_detail::kWide ? radix_detail::sort_by_digits<8>(items, scratch, n)
                                 : radix_detail::sort_by_digits<11>(items, scratch, n);
}
}  // namespace detops
