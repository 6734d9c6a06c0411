// Per region, each axis' samples become a small matrix of weights over pixels (roi_taps.h); a bin is then a product of
// rows and columns, for a vector of channels at a time. Maps that keep channels apart are packed into slabs (roi_slab.h).
#include "roi_align.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "roi_slab.h"
#include "roi_taps.h"
#include "rois.h"

namespace detops {
namespace {
template <typename A>
struct Plan {
  RoiAlignGrid grid;
  RoiTaps<A> rows, columns;
  RoiOrder order;
};

template <typename A, typename G>
Plan<A> make_plan(const char* op, const Tensor& rois_tensor, const RoiAlignGrid& grid, int64_t images, int64_t height,
                  int64_t width) {
  const std::vector<Roi<G>> rois = read_rois<G>(op, rois_tensor, images);
  const auto num_rois = static_cast<int64_t>(rois.size());
  RoiTaps<A> rows(num_rois, grid.pooled_height, height), columns(num_rois, grid.pooled_width, width);
  for (const Roi<G>& roi : rois) {
    rows.add_bins(grid.rows(roi.box.y1, roi.box.y2));
    columns.add_bins(grid.columns(roi.box.x1, roi.box.x2));
  }
  RoiOrder order(
      num_rois, [&](int64_t k) { return rois[k].image; },
      [&](int64_t k) { return rows[k].empty() ? 0 : rows[k].first_pixel(); });
  return {grid, std::move(rows), std::move(columns), std::move(order)};
}

// Rows of a map, or of a slab that holds as many of them as the mask has values, each where an earlier one was.
template <typename T>
struct Rows {
  T* data;
  int64_t stride, pixel_stride, mask;

  DETOPS_HD T* operator[](int64_t y) const { return data + (y & mask) * stride; }
};
constexpr int64_t kAllRows = -1;

// Runs terms(k0, count) with `count`, a constant, up to 4 of the terms [0, n), until all are done.
template <typename Terms>
DETOPS_HD void in_fours(int64_t n, const Terms& terms) {
  int64_t k = 0;
  for (; n - k > 4; k += 4) terms(k, std::integral_constant<int, 4>());
  switch (n - k) {
    case 1:
      return terms(k, std::integral_constant<int, 1>());
    case 2:
      return terms(k, std::integral_constant<int, 2>());
    case 3:
      return terms(k, std::integral_constant<int, 3>());
    case 4:
      return terms(k, std::integral_constant<int, 4>());
  }
}

// sums[j] = weighted sum of the rows of one output of `y` in the touched column j.
template <typename V, typename T, typename A>
DETOPS_HD void sum_rows(const Rows<T>& map, const AxisTaps<A>& y, const Taps& taps, const AxisTaps<A>& x, V* sums) {
  if (taps.count == 0) std::fill(sums, sums + x.num_pixels, V{});
  in_fours(taps.count, [&](int64_t k0, auto count) DETOPS_INLINE {
    constexpr int kCount = decltype(count)::value;
    const T* row[kCount];
    V weight[kCount];
    for (int k = 0; k < kCount; ++k) {
      row[k] = map[y.pixels[taps.first + k0 + k]];
      weight[k] = every_channel<V>(y.weights[taps.weights + k0 + k]);
    }
    for (int64_t j = 0; j < x.num_pixels; ++j) {
      const int64_t offset = x.pixels[j] * map.pixel_stride;
      V sum = weight[0] * load_channels<V>(row[0] + offset);
      for (int k = 1; k < kCount; ++k) sum += weight[k] * load_channels<V>(row[k] + offset);
      sums[j] = k0 == 0 ? sum : sums[j] + sum;
    }
  });
}

// outputs[i * output_stride] = weighted sum of inputs[i * input_stride + taps], for `lines` values of i.
template <typename V, typename A>
DETOPS_HD void sum_columns(const AxisTaps<A>& x, const Taps& taps, int64_t lines, const V* inputs, int64_t input_stride,
                           V* outputs, int64_t output_stride) {
  if (taps.count == 0) {
    for (int64_t i = 0; i < lines; ++i) outputs[i * output_stride] = V{};
  }
  in_fours(taps.count, [&](int64_t k0, auto count) DETOPS_INLINE {
    constexpr int kCount = decltype(count)::value;
    V weight[kCount];
    for (int k = 0; k < kCount; ++k) weight[k] = every_channel<V>(x.weights[taps.weights + k0 + k]);
    const V* input = inputs + taps.first + k0;
    for (int64_t i = 0; i < lines; ++i) {
      V sum = weight[0] * input[i * input_stride];
      for (int k = 1; k < kCount; ++k) sum += weight[k] * input[i * input_stride + k];
      outputs[i * output_stride] = k0 == 0 ? sum : outputs[i * output_stride] + sum;
    }
  });
}

constexpr int64_t kStripBytes = 16 << 10;  // of sums over rows, to stay in the first cache

template <typename A>
int64_t strip_of(const Plan<A>& plan, int64_t vector_bytes) {
  const int64_t row_bytes = std::max<int64_t>(plan.columns.most_pixels(), 1) * vector_bytes;
  return std::clamp<int64_t>(kStripBytes / row_bytes, 1, plan.grid.pooled_height);
}

// The bins (PH, PW) of one region, from one vector of channels.
template <typename V, typename T, typename A>
DETOPS_HD void pool(const Plan<A>& plan, int64_t roi, const Rows<T>& map, int64_t strip, V* sums, V* bins) {
  const AxisTaps<A> y = plan.rows[roi], x = plan.columns[roi];
  const int64_t height = plan.grid.pooled_height, width = plan.grid.pooled_width;
  if (y.empty() || x.empty()) return std::fill(bins, bins + height * width, V{});
  for (int64_t first = 0; first < height; first += strip) {
    const int64_t lines = std::min(strip, height - first);
    for (int64_t i = 0; i < lines; ++i) sum_rows(map, y, y.outputs[first + i], x, sums + i * x.num_pixels);
    for (int64_t bin = 0; bin < width; ++bin) {
      sum_columns(x, x.outputs[bin], lines, sums, x.num_pixels, bins + first * width + bin, width);
    }
  }
}

// Adds one output of the transposed `y` to a row of the gradient: a weighted sum of rows of sums, column by column.
template <typename V, typename A>
DETOPS_HD void add_rows(const AxisTaps<A>& y, const Taps& taps, const AxisTaps<A>& x, const V* sums, V* row) {
  in_fours(taps.count, [&](int64_t k0, auto count) DETOPS_INLINE {
    constexpr int kCount = decltype(count)::value;
    V weight[kCount];
    for (int k = 0; k < kCount; ++k) weight[k] = every_channel<V>(y.weights[taps.weights + k0 + k]);
    const V* from = sums + (taps.first + k0) * x.num_pixels;
    for (int64_t j = 0; j < x.num_pixels; ++j) {
      V sum = row[x.pixels[j]];
      for (int k = 0; k < kCount; ++k) sum += weight[k] * from[k * x.num_pixels + j];
      row[x.pixels[j]] = sum;
    }
  });
}

struct Band {
  int64_t begin, end;  // rows
};

// The transpose of pool(): bins added to the rows of a slab.
template <typename V, typename A>
DETOPS_HD void scatter(const AxisTaps<A>& y, const AxisTaps<A>& x, const RoiAlignGrid& grid, Band band, const V* bins,
                       V* sums, const Rows<V>& slab) {
  for (int64_t j = 0; j < x.num_pixels; ++j) {
    sum_columns(x, x.outputs[j], grid.pooled_height, bins, grid.pooled_width, sums + j, x.num_pixels);
  }
  for (int64_t i = 0; i < y.num_pixels; ++i) {
    if (y.pixels[i] < band.begin || y.pixels[i] >= band.end) continue;
    add_rows(y, y.outputs[i], x, sums, slab[y.pixels[i]]);
  }
}

template <typename A>
TouchedPixels touched_pixels(const Plan<A>& plan, const RoiGroup& group, int64_t height, int64_t width) {
  TouchedPixels touched(height, width);
  for (int64_t i = group.begin; i < group.end; ++i) {
    const AxisTaps<A> y = plan.rows[plan.order.rois[i]], x = plan.columns[plan.order.rois[i]];
    if (y.empty() || x.empty()) continue;
    const uint64_t blocks = touched.blocks(x.first_pixel(), x.last_pixel());
    for (int64_t j = 0; j < y.num_pixels; ++j) touched.add(y.pixels[j], blocks);
  }
  return touched;
}

// What one thread works with; sizes in vectors.
template <typename A>
struct Workspace {
  Scratch<A> sums, bins, slab;

  template <typename V>
  static V* as(const Scratch<A>& scratch) {
    return reinterpret_cast<V*>(scratch.get());
  }
};

// Channels go through vectors of `lanes`, or one by one where these would be mostly empty or their slab too large.
struct Channels {
  int64_t lanes, slab_rows;
  bool packed;
};

template <typename A>
Channels arrange(const Plan<A>& plan, int64_t channels, int64_t width, bool interleaved) {
  constexpr int64_t kFewChannels = 2, kLargestSlab = int64_t{512} << 20;
  const int64_t lanes = active_lanes<A>();
  int64_t slab_rows = 1;
  while (slab_rows < plan.rows.longest_span()) slab_rows *= 2;
  if (channels <= kFewChannels || slab_rows * width * lanes > kLargestSlab / static_cast<int64_t>(sizeof(A))) {
    return {1, slab_rows, false};
  }
  return {lanes, slab_rows, !(interleaved && channels >= lanes)};
}

template <typename A>
std::vector<Workspace<A>> workspaces(int64_t workers, const Plan<A>& plan, const Channels& arranged, int64_t sums,
                                     int64_t slab) {
  std::vector<Workspace<A>> result(workers);
  for (Workspace<A>& work : result) {
    work.sums = Scratch<A>(sums * arranged.lanes);
    work.bins = Scratch<A>(plan.grid.pooled_height * plan.grid.pooled_width * arranged.lanes);
    work.slab = Scratch<A>(slab * arranged.lanes);
  }
  return result;
}

// Regions of one image, in one vector of channels (or all of them), in a band of rows.
struct Task {
  RoiGroup group;
  int64_t channel;
  Band band;
  const TouchedPixels* touched;
};

// Regions straight from the map, all channels.
template <typename V, typename T, typename A>
DETOPS_HD void forward_direct(const Plan<A>& plan, const Maps<const T>& input, const Maps<T>& output, const Task& task,
                              int64_t strip, V* sums, V* bins) {
  constexpr int64_t kLanes = LanesOf<V>::value;
  for (int64_t i = task.group.begin; i < task.group.end; ++i) {
    const int64_t roi = plan.order.rois[i];
    for (int64_t next = 0; next < input.channels; next += kLanes) {
      const int64_t c = std::min(next, input.channels - kLanes);
      const Rows<const T> map{input.at(task.group.image, c), input.row_stride, input.pixel_stride, kAllRows};
      pool<V>(plan, roi, map, strip, sums, bins);
      store_bins<V>(output, roi, c, kLanes, bins);
    }
  }
}

// One vector of channels through a slab, whose rows are packed when the first region that needs them comes.
template <typename V, typename T, typename A>
DETOPS_HD void forward_packed(const Plan<A>& plan, const Maps<const T>& input, const Maps<T>& output, const Task& task,
                              int64_t strip, V* sums, V* bins, const Rows<V>& slab) {
  constexpr int64_t kLanes = LanesOf<V>::value;
  const int64_t channels = std::min(kLanes, input.channels - task.channel);
  const T* plane = input.at(task.group.image, task.channel);
  const Rows<const A> map{reinterpret_cast<const A*>(slab.data), slab.stride * kLanes, kLanes, slab.mask};
  int64_t packed = 0;
  for (int64_t i = task.group.begin; i < task.group.end; ++i) {
    const int64_t roi = plan.order.rois[i];
    const AxisTaps<A> y = plan.rows[roi];
    if (!y.empty()) {
      for (packed = std::max(packed, y.first_pixel()); packed <= y.last_pixel(); ++packed) {
        task.touched->for_each_run(packed, [&](int64_t begin, int64_t end, bool touched) DETOPS_INLINE {
          if (touched) {
            pack_row<V, T>(input, plane + packed * input.row_stride, channels, begin, end, slab[packed]);
          }
        });
      }
    }
    pool<V>(plan, roi, map, strip, sums, bins);
    store_bins<V>(output, roi, task.channel, channels, bins);
  }
}

template <typename T, typename A>
void forward_cpu(const Plan<A>& plan, const Maps<const T>& input, const Maps<T>& output) {
  const Channels arranged = arrange(plan, input.channels, input.width, input.interleaved());
  const int64_t workers = workers_for(output.size, output.channels, output.height * output.width);
  std::vector<TouchedPixels> touched;
  std::vector<Task> tasks;
  touched.reserve(plan.order.groups.size());
  for (const RoiGroup& group : plan.order.groups) {
    const int64_t rois = group.end - group.begin;
    const int64_t vectors = arranged.packed ? (input.channels + arranged.lanes - 1) / arranged.lanes : 1;
    // Enough tasks for all workers; a part of the regions of its own packs some rows once more.
    const int64_t parts = arranged.packed ? (workers + vectors - 1) / vectors : workers == 1 ? 1 : (rois + 15) / 16;
    if (arranged.packed) touched.push_back(touched_pixels(plan, group, input.height, input.width));
    for (int64_t part = 0; part < parts; ++part) {
      const RoiGroup some{group.image, group.begin + rois * part / parts, group.begin + rois * (part + 1) / parts};
      for (int64_t vector = 0; vector < vectors; ++vector) {
        tasks.push_back({some, vector * arranged.lanes, {}, arranged.packed ? &touched.back() : nullptr});
      }
    }
  }
  const int64_t strip = strip_of(plan, arranged.lanes * sizeof(A));
  const auto scratch = workspaces(workers, plan, arranged, strip * plan.columns.most_pixels(),
                                  arranged.packed ? arranged.slab_rows * input.width : 0);
  run_tasks(static_cast<int64_t>(tasks.size()), workers, [&](int64_t i, int64_t worker) {
    const Workspace<A>& work = scratch[worker];
    simd_fused([&](auto isa) DETOPS_INLINE {
      using V = Vec<decltype(isa), A>;
      V* sums = work.template as<V>(work.sums);
      V* bins = work.template as<V>(work.bins);
      if (arranged.lanes == 1) {
        forward_direct<A>(plan, input, output, tasks[i], strip, work.sums.get(), work.bins.get());
      } else if (arranged.packed) {
        const Rows<V> slab{work.template as<V>(work.slab), input.width, 1, arranged.slab_rows - 1};
        forward_packed<V>(plan, input, output, tasks[i], strip, sums, bins, slab);
      } else {
        forward_direct<V>(plan, input, output, tasks[i], strip, sums, bins);
      }
    });
  });
}

// Gradient of one vector of channels in a band of rows. A row of the slab is cleared before the first region that adds
// to it and moved out when the next region lies below.
template <typename V, typename T, typename A>
DETOPS_HD void backward_task(const Plan<A>& plan, const Maps<const T>& grad, const Maps<T>& output, const Task& task,
                             V* sums, V* bins, const Rows<V>& slab) {
  const int64_t channels = std::min(LanesOf<V>::value, output.channels - task.channel);
  const Band band = task.band;
  T* plane = output.at(task.group.image, task.channel);
  int64_t cleared = band.begin, finished = band.begin;
  const auto finish_until = [&](int64_t end) DETOPS_INLINE {
    for (; finished < end; ++finished) {
      T* row = plane + finished * output.row_stride;
      task.touched->for_each_run(finished, [&](int64_t begin, int64_t last, bool touched) DETOPS_INLINE {
        if (touched) {
          unpack_row<V, T>(output, row, channels, begin, last, slab[finished]);
        } else {
          zero_row(output, row, channels, begin, last);
        }
      });
    }
  };
  for (int64_t i = task.group.begin; i < task.group.end; ++i) {
    const int64_t roi = plan.order.rois[i];
    const AxisTaps<A> y = plan.rows[roi], x = plan.columns[roi];
    if (y.empty() || x.empty() || y.last_pixel() < band.begin || y.first_pixel() >= band.end) continue;
    finish_until(y.first_pixel());
    for (cleared = std::max(cleared, y.first_pixel()); cleared <= std::min(y.last_pixel(), band.end - 1); ++cleared) {
      task.touched->for_each_run(cleared, [&](int64_t begin, int64_t end, bool touched) DETOPS_INLINE {
        if (touched) std::fill(slab[cleared] + begin, slab[cleared] + end, V{});
      });
    }
    load_bins<V, T>(grad, roi, task.channel, channels, bins);
    scatter(y, x, plan.grid, band, bins, sums, slab);
  }
  finish_until(band.end);
}

template <typename T, typename A>
void backward_cpu(const Plan<A>& plan, const Maps<const T>& grad, const Maps<T>& output) {
  const Channels arranged = arrange(plan, output.channels, output.width, false);
  const int64_t vectors = (output.channels + arranged.lanes - 1) / arranged.lanes;
  const int64_t workers = workers_for(grad.size, grad.channels, grad.height * grad.width + output.height);
  const int64_t wanted = (workers + output.size * vectors - 1) / (output.size * vectors);
  const int64_t bands = std::min(workers == 1 ? 1 : wanted, output.height);
  std::vector<TouchedPixels> touched;
  std::vector<Task> tasks;
  touched.reserve(output.size);
  size_t next = 0;
  for (int64_t image = 0; image < output.size; ++image) {
    RoiGroup group{image, 0, 0};
    if (next < plan.order.groups.size() && plan.order.groups[next].image == image) group = plan.order.groups[next++];
    touched.push_back(touched_pixels(plan, group, output.height, output.width));
    for (int64_t band = 0; band < bands; ++band) {
      const Band rows{output.height * band / bands, output.height * (band + 1) / bands};
      for (int64_t vector = 0; vector < vectors; ++vector) {
        tasks.push_back({group, vector * arranged.lanes, rows, &touched.back()});
      }
    }
  }
  const auto scratch = workspaces(workers, plan, arranged, plan.grid.pooled_height * plan.columns.most_pixels(),
                                  arranged.slab_rows * output.width);
  run_tasks(static_cast<int64_t>(tasks.size()), workers, [&](int64_t i, int64_t worker) {
    const Workspace<A>& work = scratch[worker];
    const int64_t mask = arranged.slab_rows - 1;
    simd_fused([&](auto isa) DETOPS_INLINE {
      using V = Vec<decltype(isa), A>;
      if (arranged.lanes == 1) {
        const Rows<A> slab{work.slab.get(), output.width, 1, mask};
        backward_task<A>(plan, grad, output, tasks[i], work.sums.get(), work.bins.get(), slab);
      } else {
        const Rows<V> slab{work.template as<V>(work.slab), output.width, 1, mask};
        backward_task<V>(plan, grad, output, tasks[i], work.template as<V>(work.sums), work.template as<V>(work.bins),
                         slab);
      }
    });
  });
}

// Calls fn(Type<T>{}, plan) with the element type of `maps` and the plan for its accumulator. Geometry is float64 if
// either tensor is.
template <typename Fn>
void with_plan(const char* op, const Tensor& maps, const Tensor& rois, const RoiAlignGrid& grid, int64_t images,
               int64_t height, int64_t width, const Fn& fn) {
  dispatch_floating(op, maps, [&](auto type) {
    using A = acc_t<typename decltype(type)::type>;
    if (std::is_same_v<A, double> || rois.scalar_type() == ScalarType::Double) {
      fn(type, make_plan<A, double>(op, rois, grid, images, height, width));
    } else {
      fn(type, make_plan<A, float>(op, rois, grid, images, height, width));
    }
  });
}
}  // namespace

Tensor roi_align(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                 int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  const char* op = "roi_align";
  check_floating(op, "input", input);
  check_shape(op, "input", input, {kAny, kAny, kAny, kAny});
  check_rois(op, "input", input, rois);
  check_pooled_size(op, pooled_height, pooled_width);
  Tensor output = new_regions(input, rois.size(0), pooled_height, pooled_width);
  const RoiAlignGrid grid{spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned};
  with_plan(op, input, rois, grid, input.size(0), input.size(2), input.size(3), [&](auto type, const auto& plan) {
    using T = typename decltype(type)::type;
    if (rois.size(0) > 0 && input.size(1) > 0) forward_cpu<T>(plan, Maps<const T>(input), Maps<T>(output));
  });
  return output;
}
DETOPS_OP(roi_align,
          "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
          "int sampling_ratio, bool aligned) -> Tensor")

Tensor roi_align_backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                          int64_t pooled_width, int64_t batch, int64_t channels, int64_t height, int64_t width,
                          int64_t sampling_ratio, bool aligned, bool channels_last) {
  const char* op = "roi_align_backward";
  check_floating(op, "grad", grad);
  check_rois(op, "grad", grad, rois);
  check_pooled_size(op, pooled_height, pooled_width);
  check_shape(op, "grad", grad, {rois.size(0), channels, pooled_height, pooled_width});
  Tensor output = new_maps(grad, {batch, channels, height, width}, channels_last);
  const RoiAlignGrid grid{spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned};
  with_plan(op, grad, rois, grid, batch, height, width, [&](auto type, auto plan) {
    using T = typename decltype(type)::type;
    if (batch == 0 || channels == 0 || height == 0 || width == 0) return;
    plan.rows = plan.rows.transposed();
    plan.columns = plan.columns.transposed();
    backward_cpu<T>(plan, Maps<const T>(grad), Maps<T>(output));
  });
  return output;
}
DETOPS_OP(roi_align_backward,
          "(Tensor grad, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, SymInt batch, "
          "SymInt channels, SymInt height, SymInt width, int sampling_ratio, bool aligned, bool channels_last) -> Tensor")
}  // namespace detops
