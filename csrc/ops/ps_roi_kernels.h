// Position-sensitive pooling on CUDA, for either kind of bins. Forward a thread has an output; its neighbours read the
// channels beside its own around the same pixels. Backward a warp has a tile of one plane and adds the regions' bins in
// their order: no atomics.
#pragma once
#include "../core/launch.h"
#include "ps_rois.h"

namespace detops {
template <typename G, typename T, typename Bins>
__global__ void __launch_bounds__(256) ps_roi_kernel(PsRoiArgs<T, Bins> a) {
  using A = acc_t<T>;
  const Maps<T>& to = a.output;
  const PsAxis rows{to.height, a.input.height}, columns{to.width, a.input.width};
  DETOPS_GRID_STRIDE(i, to.size * a.input.channels) {
    const int64_t k = i / a.input.channels, c = i % a.input.channels;
    const int64_t channel = c / (to.height * to.width), row = c / to.width % to.height, column = c % to.width;
    const Roi<G> roi = a.rois.template load<G>(k, a.input.size);
    A mean = 0;
    if (roi.image >= 0) {
      const T* plane = a.input.at(roi.image, c);
      a.bins.template for_each<A>(roi.box.y1, roi.box.y2, row, rows, [&](int64_t y, A y_weight) {
        A of_row = 0;
        a.bins.template for_each<A>(roi.box.x1, roi.box.x2, column, columns, [&](int64_t x, A x_weight) {
          of_row += x_weight * static_cast<A>(plane[y * a.input.row_stride + x * a.input.pixel_stride]);
        });
        mean += y_weight * of_row;
      });
    }
    to.at(k, channel)[row * to.row_stride + column * to.pixel_stride] = static_cast<T>(mean);
  }
}

constexpr int64_t kPsTileRows = 16, kPsTileColumns = 32;

// Pixels from the first to the last that a bin takes along one axis; first > last if it takes none.
struct PsSpan {
  int64_t first, last;
};
template <typename A, typename G, typename Bins>
DETOPS_D PsSpan ps_span(const Bins& bins, G low, G high, int64_t bin, PsAxis along) {
  PsSpan span{along.size, -1};
  bins.template for_each<A>(low, high, bin, along, [&](int64_t pixel, A) {
    span.first = min(span.first, pixel);
    span.last = pixel;
  });
  return span;
}

template <typename G, typename T, typename Bins>
__global__ void __launch_bounds__(kWarp) ps_roi_backward_kernel(PsRoiArgs<T, Bins> a) {
  using A = acc_t<T>;
  DETOPS_SHARED(tile, A[kPsTileRows * kPsTileColumns]);
  const Maps<const T>& grad = a.input;
  const Maps<T>& to = a.output;
  const PsAxis rows{grad.height, to.height}, columns{grad.width, to.width};
  const int64_t across = (to.width + kPsTileColumns - 1) / kPsTileColumns;
  const int64_t down = (to.height + kPsTileRows - 1) / kPsTileRows;
  int64_t task = blockIdx.x;
  const int64_t left = task % across * kPsTileColumns;
  task /= across;
  const int64_t top = task % down * kPsTileRows;
  task /= down;
  const int64_t c = task % to.channels, image = task / to.channels;
  const int64_t right = min(left + kPsTileColumns, to.width), bottom = min(top + kPsTileRows, to.height);
  const int64_t channel = c / (grad.height * grad.width), row = c / grad.width % grad.height, column = c % grad.width;
  const int lane = lane_id();
  for (int64_t i = lane; i < kPsTileRows * kPsTileColumns; i += kWarp) tile[i] = 0;
  __syncthreads();
  for (int64_t first = 0; first < grad.size; first += kWarp) {
    bool touches = false;
    if (first + lane < grad.size) {
      const Roi<G> roi = a.rois.template load<G>(first + lane, to.size);
      if (roi.image == image) {
        const PsSpan y = ps_span<A>(a.bins, roi.box.y1, roi.box.y2, row, rows);
        const PsSpan x = ps_span<A>(a.bins, roi.box.x1, roi.box.x2, column, columns);
        touches = y.first < bottom && y.last >= top && x.first < right && x.last >= left;
      }
    }
    for (unsigned left_over = ballot(touches); left_over != 0; left_over &= left_over - 1) {
      const int64_t k = first + __ffs(static_cast<int>(left_over)) - 1;
      const Roi<G> roi = a.rois.template load<G>(k, to.size);
      const A of_bin = static_cast<A>(grad.at(k, channel)[row * grad.row_stride + column * grad.pixel_stride]);
      int turn = 0;  // pixels go round the lanes
      a.bins.template for_each<A>(roi.box.y1, roi.box.y2, row, rows, [&](int64_t y, A y_weight) {
        if (y < top || y >= bottom) return;
        a.bins.template for_each<A>(roi.box.x1, roi.box.x2, column, columns, [&](int64_t x, A x_weight) {
          if (x < left || x >= right) return;
          if (turn++ % kWarp == lane) tile[(y - top) * kPsTileColumns + x - left] += of_bin * y_weight * x_weight;
        });
      });
      __syncthreads();
    }
  }
  T* plane = to.at(image, c);
  for (int64_t i = lane; i < (bottom - top) * kPsTileColumns; i += kWarp) {
    const int64_t y = top + i / kPsTileColumns, x = left + i % kPsTileColumns;
    if (x < right) plane[y * to.row_stride + x * to.pixel_stride] = static_cast<T>(tile[i]);
  }
}

template <typename G, typename T, typename Bins>
void ps_roi_cuda(const char* op, const PsRoiArgs<T, Bins>& args, void* stream) {
  launch(op, ps_roi_kernel<G, T, Bins>, grid_for(args.output.size * args.input.channels), stream, args);
}

template <typename G, typename T, typename Bins>
void ps_roi_backward_cuda(const char* op, const PsRoiArgs<T, Bins>& args, void* stream) {
  const Maps<T>& to = args.output;
  const int64_t tiles =
      (to.width + kPsTileColumns - 1) / kPsTileColumns * ((to.height + kPsTileRows - 1) / kPsTileRows);
  launch(op, ps_roi_backward_kernel<G, T, Bins>, {to.size * to.channels * tiles, kWarp}, stream, args);
}

#define DETOPS_INSTANTIATE_PS_ROI(BINS)         \
  DETOPS_INSTANTIATE_ONE(float, float, BINS)    \
  DETOPS_INSTANTIATE_ONE(double, float, BINS)   \
  DETOPS_INSTANTIATE_ONE(double, double, BINS)  \
  DETOPS_INSTANTIATE_ONE(float, Half, BINS)     \
  DETOPS_INSTANTIATE_ONE(double, Half, BINS)    \
  DETOPS_INSTANTIATE_ONE(float, BFloat16, BINS) \
  DETOPS_INSTANTIATE_ONE(double, BFloat16, BINS)
#define DETOPS_INSTANTIATE_ONE(G, T, BINS)                                     \
  template void ps_roi_cuda<G>(const char*, const PsRoiArgs<T, BINS>&, void*); \
  template void ps_roi_backward_cuda<G>(const char*, const PsRoiArgs<T, BINS>&, void*);
}  // namespace detops
