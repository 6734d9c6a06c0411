// Channels of feature maps in CUDA kernels: a thread takes a few at a time.
#pragma once
#include "../core/launch.h"
#include "feature_maps.h"

namespace detops {
// Where these channels lie, and what neighbouring threads are.
enum class Layout {
  kPlanes,       // anywhere; pixels of a row
  kPacked,       // side by side, in 16-byte packs; packs of a pixel
  kInterleaved,  // side by side; channels of a pixel
};
template <Layout kLayout, typename T, int kOfPlanes>
constexpr int kVector = kLayout == Layout::kPlanes   ? kOfPlanes
                        : kLayout == Layout::kPacked ? Pack<T>::size
                                                     : 1;

template <typename T>
bool in_packs(const Maps<T>& maps) {
  constexpr int64_t n = 16 / sizeof(T);
  return reinterpret_cast<uintptr_t>(maps.data) % 16 == 0 && maps.channels % n == 0 && maps.stride % n == 0 &&
         maps.row_stride % n == 0 && maps.pixel_stride % n == 0;
}
template <typename MapsOrPyramid, typename Is>
bool every_level(const MapsOrPyramid& maps, const Is& is) {
  for (int i = 0; i < maps.count(); ++i) {
    if (!is(maps.level(i))) return false;
  }
  return true;
}
// Calls fn(the layout that fits all maps, of all levels, a constant).
template <typename Fn, typename... MapsOrPyramid>
void dispatch_layout(const Fn& fn, const MapsOrPyramid&... maps) {
  const auto interleaved = [](const auto& level) { return level.interleaved(); };
  const auto packed = [](const auto& level) { return in_packs(level); };
  if (!(every_level(maps, interleaved) && ...)) return fn(std::integral_constant<Layout, Layout::kPlanes>());
  if ((every_level(maps, packed) && ...)) return fn(std::integral_constant<Layout, Layout::kPacked>());
  fn(std::integral_constant<Layout, Layout::kInterleaved>());
}

template <typename A, int kCount>
struct alignas(sizeof(A) * kCount % 16 == 0 ? 16 : sizeof(A)) Channels {
  A values[kCount];
};

// Zeros beyond `count`.
template <Layout kLayout, typename T, typename A, int kCount>
DETOPS_D void read_channels(const T* from, int64_t stride, int count, Channels<A, kCount>& to) {
  if constexpr (kLayout == Layout::kPacked && sizeof(T) * kCount % 16 == 0) {
#pragma unroll
    for (int c = 0; c < kCount; c += Pack<T>::size) {
      const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(from + c);
#pragma unroll
      for (int i = 0; i < Pack<T>::size; ++i) to.values[c + i] = static_cast<A>(pack.values[i]);
    }
  } else {
    if (kLayout != Layout::kPlanes) stride = 1;
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      to.values[c] = kLayout != Layout::kPlanes || c < count ? static_cast<A>(from[c * stride]) : A(0);
    }
  }
}
template <Layout kLayout, typename T, typename A, int kCount>
DETOPS_D void write_channels(T* to, int64_t stride, int count, const Channels<A, kCount>& from) {
  if constexpr (kLayout == Layout::kPacked && sizeof(T) * kCount % 16 == 0) {
    T converted[kCount];
#pragma unroll
    for (int c = 0; c < kCount; ++c) converted[c] = static_cast<T>(from.values[c]);
    store_packs(to, converted);
  } else {
    if (kLayout != Layout::kPlanes) stride = 1;
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      if (kLayout != Layout::kPlanes || c < count) to[c * stride] = static_cast<T>(from.values[c]);
    }
  }
}
// sums += weight * values, rounded once.
template <typename A, int kCount>
DETOPS_D void add_channels(A weight, const Channels<A, kCount>& values, Channels<A, kCount>& sums) {
#pragma unroll
  for (int c = 0; c < kCount; ++c) sums.values[c] = std::fma(weight, values.values[c], sums.values[c]);
}
}  // namespace detops
