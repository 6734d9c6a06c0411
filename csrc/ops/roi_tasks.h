// How CPU kernels go over regions: image by image and vector of channels by vector of channels, down the image. Where
// channels lie apart they are packed into a slab of interleaved ones: only what the regions touch, row by row, when the
// first region needs it, into a ring of rows that stays in the cache.
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include "../core/parallel.h"
#include "../core/scratch.h"
#include "roi_maps.h"
#include "roi_rows.h"
#include "rois.h"

namespace detops {
// How many numbers the vectors of the active instruction set hold.
template <typename A>
int64_t active_lanes() {
  switch (active_instruction_set) {
    case InstructionSet::kAvx512:
      return lanes<Avx512, A>;
    case InstructionSet::kAvx2:
      return lanes<Avx2, A>;
    default:
      return lanes<Baseline, A>;
  }
}

// Runs task(index, worker) for every index, workers in parallel; what a worker needs is made before.
template <typename Task>
void run_tasks(int64_t tasks, int64_t workers, const Task& task) {
  std::atomic<int64_t> next{0};
  parallel_for(workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) task(i, worker);
    }
  });
}

// How many threads it is worth to pool regions of so many channels into so many bins.
inline int64_t workers_for(int64_t rois, int64_t channels, int64_t bins) {
  constexpr double kNanosecondsPerBin = 0.1, kWorthwhile = 250e3;
  const double work = kNanosecondsPerBin * static_cast<double>(rois) * static_cast<double>(channels * bins);
  return std::clamp<int64_t>(static_cast<int64_t>(work / kWorthwhile), 1, num_threads());
}

// Channels go through vectors of `lanes`, or one by one where these would be mostly empty or their slab too large.
struct Arrangement {
  int64_t lanes, slab_rows;
  bool packed;
};

template <typename A>
Arrangement arrange(int64_t channels, int64_t width, int64_t longest_span, bool interleaved) {
  constexpr int64_t kFewChannels = 2, kLargestSlab = int64_t{512} << 20;
  const int64_t lanes = active_lanes<A>();
  int64_t slab_rows = 1;
  while (slab_rows < longest_span) slab_rows *= 2;
  if (channels <= kFewChannels || slab_rows * width * lanes > kLargestSlab / static_cast<int64_t>(sizeof(A))) {
    return {1, slab_rows, false};
  }
  return {lanes, slab_rows, !(interleaved && channels >= lanes)};
}

// How the channels of each level go through vectors; `groups` have the regions of its images.
template <typename A, typename Regions, typename T>
std::array<Arrangement, Pyramid<T>::kMostLevels> arrange_levels(const Regions& regions,
                                                                const std::vector<RoiGroup>& groups,
                                                                const Pyramid<T>& maps, bool always_packed) {
  std::array<int64_t, Pyramid<T>::kMostLevels> longest_span{};
  for (const RoiGroup& group : groups) {
    int64_t& longest = longest_span[maps.place(group.image).level];
    for (int64_t i = group.begin; i < group.end; ++i) {
      const Band rows = regions.rows(regions.order.rois[i]);
      longest = std::max(longest, rows.end - rows.begin);
    }
  }
  std::array<Arrangement, Pyramid<T>::kMostLevels> result{};
  for (int i = 0; i < maps.count(); ++i) {
    const Maps<T>& level = maps.level(i);
    result[i] = arrange<A>(level.channels, level.width, longest_span[i], !always_packed && level.interleaved());
  }
  return result;
}

// Regions of one image of a level, in one vector of channels (or all of them), in a band of rows.
struct Task {
  int level;
  RoiGroup group;
  int64_t channel;
  Band band;
  const TouchedPixels* touched;
};

// What a kernel tells of its regions, Regions below:
//   order            a RoiOrder by first row
//   rows(k)          the rows that region k touches, as a Band; empty if none
//   touch(k, pixels) marks what region k touches
//   sums()           how many vectors of working space pool() and add() need
//   pool<V>(k, rows, sums, bins)              the bins (PH, PW) of region k from the rows of a map
//   add<V>(k, band, input, sums, bins, slab)  the gradient of that: bins' gradients into rows of a slab; `input` are
//                                             the map's rows if kReadsInput
template <typename Regions>
TouchedPixels touched_pixels(const Regions& regions, const RoiGroup& group, int64_t height, int64_t width) {
  TouchedPixels result(height, width);
  for (int64_t i = group.begin; i < group.end; ++i) regions.touch(regions.order.rois[i], result);
  return result;
}

// Packs rows up to where a band ends that are not yet.
template <typename V, typename T>
DETOPS_HD void pack_until(const Maps<const T>& input, const Task& task, Band band, const Rows<V>& slab,
                          int64_t& packed) {
  const int64_t channels = std::min(kChannels<V>, input.channels - task.channel);
  const T* plane = input.at(task.group.image, task.channel);
  for (packed = std::max(packed, band.begin); packed < band.end; ++packed) {
    task.touched->for_each_run(packed, [&](int64_t begin, int64_t end, bool touched) DETOPS_INLINE {
      if (touched)
        pack_row<V, T>(input, plane + packed * input.row_stride, channels, begin, end, slab[packed], input.row_stride);
    });
  }
}

// Regions straight from the map, all channels.
template <typename V, typename T, typename Regions, typename Visit>
DETOPS_HD void visit_direct(const Regions& regions, const Maps<const T>& input, const Task& task, V* memory,
                            const Visit& visit) {
  constexpr int64_t kLanes = kChannels<V>;
  for (int64_t i = task.group.begin; i < task.group.end; ++i) {
    const int64_t roi = regions.order.rois[i];
    for (int64_t next = 0; next < input.channels; next += kLanes) {
      const int64_t c = std::min(next, input.channels - kLanes);
      const Rows<const T> map{input.at(task.group.image, c), input.row_stride, input.pixel_stride, kAllRows};
      visit(roi, map, c, kLanes, memory);
    }
  }
}

// One vector of channels through a slab.
template <typename V, typename A, typename T, typename Regions, typename Visit>
DETOPS_HD void visit_packed(const Regions& regions, const Maps<const T>& input, const Task& task, V* memory,
                            const Rows<V>& slab, const Visit& visit) {
  constexpr int64_t kLanes = kChannels<V>;
  const int64_t channels = std::min(kLanes, input.channels - task.channel);
  const Rows<const A> map{reinterpret_cast<const A*>(slab.data), slab.stride * kLanes, kLanes, slab.mask};
  int64_t packed = 0;
  for (int64_t i = task.group.begin; i < task.group.end; ++i) {
    const int64_t roi = regions.order.rois[i];
    pack_until<V>(input, task, regions.rows(roi), slab, packed);
    visit(roi, map, task.channel, channels, memory);
  }
}

// Calls visit(k, rows, channel, channels, memory) for each region and vector of channels, some of which may come twice,
// with rows of the map, or of a slab, and `vectors_needed` vectors of working space. Every region's image must be one
// of the input.
template <typename A, typename T, typename Regions, typename Visit>
void visit_regions(const Regions& regions, const Pyramid<const T>& input, int64_t workers, int64_t vectors_needed,
                   const Visit& visit) {
  const std::vector<RoiGroup>& groups = regions.order.groups;
  const auto arrangements = arrange_levels<A>(regions, groups, input, false);
  int64_t needed = 0;
  std::vector<TouchedPixels> touched;
  touched.reserve(groups.size());
  std::vector<Task> tasks;
  for (const RoiGroup& group : groups) {
    const auto [level, image] = input.place(group.image);
    const Maps<const T>& maps = input.level(level);
    const Arrangement& by = arrangements[level];
    if (by.packed) touched.push_back(touched_pixels(regions, group, maps.height, maps.width));
    needed = std::max(needed, (vectors_needed + (by.packed ? by.slab_rows * maps.width : 0)) * by.lanes);
    const int64_t rois = group.end - group.begin;
    const int64_t vectors = by.packed ? (maps.channels + by.lanes - 1) / by.lanes : 1;
    // Enough tasks for all workers; a part of the regions of its own packs some rows once more.
    const int64_t parts = by.packed ? (workers + vectors - 1) / vectors : workers == 1 ? 1 : (rois + 15) / 16;
    for (int64_t part = 0; part < parts; ++part) {
      const RoiGroup some{image, group.begin + rois * part / parts, group.begin + rois * (part + 1) / parts};
      for (int64_t vector = 0; vector < vectors; ++vector) {
        tasks.push_back({level, some, vector * by.lanes, {}, by.packed ? &touched.back() : nullptr});
      }
    }
  }
  std::vector<Scratch<A>> scratch(workers);
  for (Scratch<A>& memory : scratch) memory = Scratch<A>(needed);
  run_tasks(static_cast<int64_t>(tasks.size()), workers, [&](int64_t i, int64_t worker) {
    const Maps<const T>& maps = input.level(tasks[i].level);
    const Arrangement& by = arrangements[tasks[i].level];
    A* memory = scratch[worker].get();
    simd_fused([&](auto isa) DETOPS_INLINE {
      using V = Vec<decltype(isa), A>;
      V* vectors = reinterpret_cast<V*>(memory);
      if (by.lanes == 1) {
        visit_direct<A>(regions, maps, tasks[i], memory, visit);
      } else if (by.packed) {
        const Rows<V> slab{vectors + vectors_needed, maps.width, 1, by.slab_rows - 1};
        visit_packed<V, A>(regions, maps, tasks[i], vectors, slab, visit);
      } else {
        visit_direct<V>(regions, maps, tasks[i], vectors, visit);
      }
    });
  });
}

// output[k] = the bins of region k.
template <typename A, typename T, typename Regions>
void pool_regions(const Regions& regions, const std::common_type_t<Pyramid<const T>>& input, const Maps<T>& output) {
  const int64_t bins = output.height * output.width, sums_needed = regions.sums();
  const int64_t workers = workers_for(output.size, output.channels, bins);
  visit_regions<A, T>(regions, input, workers, sums_needed + 2 * bins,
                      [&](int64_t roi, const auto& rows, int64_t channel, int64_t channels, auto* sums) DETOPS_INLINE {
                        using V = std::decay_t<decltype(*sums)>;
                        V* const pooled = sums + sums_needed;
                        regions.template pool<V>(roi, rows, sums, pooled);
                        store_bins<V>(output, roi, channel, channels, pooled, pooled + bins);
                      });
}

// Gradient of one vector of channels in a band of rows. A row of the slab is cleared before the first region that adds
// to it and moved out when the next region lies below.
template <typename V, typename T, typename Regions>
DETOPS_HD void add_regions(const Regions& regions, const Maps<const T>& grad, const Maps<const T>& input,
                           const Maps<T>& output, const Task& task, V* sums, V* bins, const Rows<V>& slab,
                           const Rows<V>& input_slab) {
  const int64_t channels = std::min(kChannels<V>, output.channels - task.channel);
  const Band band = task.band;
  T* plane = output.at(task.group.image, task.channel);
  int64_t cleared = band.begin, finished = band.begin, packed = 0;
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
    const int64_t roi = regions.order.rois[i];
    const Band rows = regions.rows(roi);
    if (rows.begin >= rows.end || rows.end <= band.begin || rows.begin >= band.end) continue;
    finish_until(rows.begin);
    for (cleared = std::max(cleared, rows.begin); cleared < std::min(rows.end, band.end); ++cleared) {
      task.touched->for_each_run(cleared, [&](int64_t begin, int64_t end, bool touched) DETOPS_INLINE {
        if (touched) std::fill(slab[cleared] + begin, slab[cleared] + end, V{});
      });
    }
    if constexpr (Regions::kReadsInput) pack_until<V>(input, task, rows, input_slab, packed);
    const int64_t next = regions.order.rois[std::min(i + 1, task.group.end - 1)];
    load_bins<V, T>(grad, roi, next, task.channel, channels, bins);
    regions.template add<V>(roi, band, input_slab, sums, bins, slab);
  }
  finish_until(band.end);
}

// output = the gradient of the input, zeros included. Each task owns its part of it: no atomics, and sums in the order
// of the regions whatever the number of threads.
template <typename A, typename T, typename Regions>
void backpropagate_regions(const Regions& regions, const Maps<const T>& grad,
                           const std::common_type_t<Pyramid<const T>>& input,
                           const std::common_type_t<Pyramid<T>>& output) {
  const int64_t workers = workers_for(grad.size + 1, grad.channels, 2 * grad.height * grad.width);
  std::vector<RoiGroup> groups(output.level(0).size * output.count());
  for (size_t image = 0; image < groups.size(); ++image) groups[image] = {static_cast<int64_t>(image), 0, 0};
  for (const RoiGroup& group : regions.order.groups) groups[group.image] = group;
  const auto arrangements = arrange_levels<A>(regions, groups, output, true);
  const int64_t bins = grad.height * grad.width, sums_needed = regions.sums();
  int64_t needed = 0;
  std::vector<TouchedPixels> touched;
  touched.reserve(groups.size());
  std::vector<Task> tasks;
  for (const RoiGroup& group : groups) {
    const auto [level, image] = output.place(group.image);
    const Maps<T>& maps = output.level(level);
    if (maps.height * maps.width == 0) continue;
    const Arrangement& by = arrangements[level];
    const int64_t vectors = (maps.channels + by.lanes - 1) / by.lanes;
    const int64_t bands =
        workers == 1 ? 1 : std::min((workers + maps.size * vectors - 1) / (maps.size * vectors), maps.height);
    const int64_t slabs = by.slab_rows * maps.width * (Regions::kReadsInput ? 2 : 1);
    needed = std::max(needed, (sums_needed + bins + slabs) * by.lanes);
    touched.push_back(touched_pixels(regions, group, maps.height, maps.width));
    for (int64_t band = 0; band < bands; ++band) {
      const Band rows{maps.height * band / bands, maps.height * (band + 1) / bands};
      for (int64_t vector = 0; vector < vectors; ++vector) {
        tasks.push_back({level, {image, group.begin, group.end}, vector * by.lanes, rows, &touched.back()});
      }
    }
  }
  std::vector<Scratch<A>> scratch(workers);
  for (Scratch<A>& memory : scratch) memory = Scratch<A>(needed);
  run_tasks(static_cast<int64_t>(tasks.size()), workers, [&](int64_t i, int64_t worker) {
    const int level = tasks[i].level;
    const Maps<T>& maps = output.level(level);
    const Arrangement& by = arrangements[level];
    const auto run = [&](auto* sums) DETOPS_INLINE {
      using V = std::decay_t<decltype(*sums)>;
      const Rows<V> rows{sums + sums_needed + bins, maps.width, 1, by.slab_rows - 1};
      const int64_t slab = Regions::kReadsInput ? by.slab_rows * maps.width : 0;
      const Rows<V> input_rows{rows.data + slab, maps.width, 1, by.slab_rows - 1};
      add_regions<V, T>(regions, grad, input.level(level), maps, tasks[i], sums, sums + sums_needed, rows, input_rows);
    };
    simd_fused([&](auto isa) DETOPS_INLINE {
      if (by.lanes == 1) {
        run(scratch[worker].get());
      } else {
        run(reinterpret_cast<Vec<decltype(isa), A>*>(scratch[worker].get()));
      }
    });
  });
}

// The same of regions whose gradient does not depend on the input.
template <typename A, typename T, typename Regions>
void backpropagate_regions(const Regions& regions, const Maps<const T>& grad,
                           const std::common_type_t<Pyramid<T>>& output) {
  static_assert(!Regions::kReadsInput);
  backpropagate_regions<A>(regions, grad, Pyramid<const T>(), output);
}
}  // namespace detops
