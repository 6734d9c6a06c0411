// How CUDA kernels go over regions. What is done there is a Kind's: roi_mean_kernels.h and roi_pool.cu say it.
#pragma once
#include "../core/launch.h"
#include "roi_channels.h"
#include "roi_tables.h"

namespace detops {
#if defined(DETOPS_EMULATE_CUDA)  // small, so that small tests take every path
constexpr int kThreadBits = 6;
constexpr int kLines = 8;
constexpr int kColumnBytes = 2 << 10;
#else
constexpr int kThreadBits = 8;
constexpr int kLines = 64;
constexpr int kColumnBytes = 16 << 10;
#endif
constexpr int kThreads = 1 << kThreadBits;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMostListed = 2 * kThreads;

// Blocks that a multiprocessor must have registers for. Left to itself, the compiler spills some for more blocks.
constexpr int kResident80 = 3, kResident128 = 2;  // of so many registers a thread
template <typename A>
constexpr int kResidentSums = sizeof(A) == 8 ? kResident128 : kResident80;

// i / divisor for small numbers: exact while i * divisor < 2^31.
struct SmallDivisor {
  uint32_t reciprocal;

  DETOPS_D explicit SmallDivisor(int divisor)
      : reciprocal(((uint32_t{1} << 31) + static_cast<uint32_t>(divisor) - 1) / static_cast<uint32_t>(divisor)) {}
  DETOPS_D int divide(int i) const {
    return static_cast<int>(static_cast<uint64_t>(static_cast<uint32_t>(i)) * reciprocal >> 31);
  }
};

// op over `carry` and the values of the lanes below; then carry is that over all lanes.
template <typename V, typename Op>
DETOPS_D V warp_scan(V value, V& carry, Op op) {
  V before = __shfl_up_sync(kAllLanes, value, 1);
  if (lane_id() == 0) before = carry;
#pragma unroll
  for (int apart = 1; apart < kWarp; apart *= 2) {
    const V below = __shfl_up_sync(kAllLanes, before, apart);
    if (lane_id() >= apart) before = op(below, before);
  }
  carry = __shfl_sync(kAllLanes, op(before, value), kWarp - 1);
  return before;
}

// ---- Pooling: from the pixels of a map to bins ---------------------------------------------------------------------

// A Kind of pooling reduces the pixels of a bin's rows, column by column, then these columns. It has
//   kLayout, kCount   channels of a thread
//   kResident         blocks that a multiprocessor must have registers for
//   Input, Output     elements
//   Bin, tables       RoiTables of it
//   columns(roi)      how many columns there are to reduce, numbered from 0
//   range(roi, bin)   the columns of a bin
//   reduce(input, line, roi, column)   a Column
//   start(), add(sum, column number, column, bin), finish(sum, roi, rows, bin)   a bin's Sum of columns, and its
//   Channels
struct ColumnRange {
  int begin, end;
};

// Channels in a row of bins of a region.
template <typename Kind>
struct Line {
  const typename Kind::Input* input;  // their planes
  typename Kind::Output* output;      // their row
  typename Kind::Bin rows;
  int channels;
};

template <typename Kind, template <typename> typename MapsOrPyramid>
struct PoolArgs {
  Kind kind;
  MapsOrPyramid<const typename Kind::Input> input;
  Maps<typename Kind::Output> output;       // (K, C, PH, PW)
  int64_t lines, batches, batches_of_part;  // of a region, whose blocks have a part each
  uint32_t parts;
  int lines_of_batch, bins_of_thread_row;  // at most
};

// A block has some lines of a region: as many at a time as give each thread a bin. Each column of a line is reduced
// over its rows once, by neighbouring threads along the row or the channels, into shared memory; from there each thread
// takes its bin. The plain way, a thread a bin from the map itself, reads shared columns again for each bin, rows of a
// plane in pieces, and finds taps anew for every channel.
template <typename Kind, template <typename> typename MapsOrPyramid>
__global__ void __launch_bounds__(kThreads, Kind::kResident) pool_kernel(PoolArgs<Kind, MapsOrPyramid> a) {
  using Column = typename Kind::Column;
  constexpr bool kPlanes = Kind::kLayout == Layout::kPlanes;
  constexpr int kColumns = kColumnBytes / sizeof(Column);
  DETOPS_SHARED(lines, Line<Kind>[kLines]);
  DETOPS_SHARED(columns, Column[kColumns]);
  const int64_t roi = blockIdx.x / a.parts, part = blockIdx.x % a.parts;
  const auto [level, image] = a.input.place(max<int64_t>(a.kind.tables.images[roi], 0));
  const Maps<const typename Kind::Input>& input = a.input.level(level);
  const int64_t vectors = (a.output.channels + Kind::kCount - 1) / Kind::kCount;
  const int thread = static_cast<int>(threadIdx.x), num_columns = a.kind.columns(roi);
  const int64_t end_batch = min((part + 1) * a.batches_of_part, a.batches);
  for (int64_t batch = part * a.batches_of_part; batch < end_batch; ++batch) {
    const int64_t first = batch * a.lines_of_batch;
    const int count = static_cast<int>(min<int64_t>(a.lines_of_batch, a.lines - first));
    if (thread < count) {  // bins of a plane, or channels of a bin, are side by side in the output
      const int64_t line = first + thread;
      const int64_t vector = kPlanes ? line / a.output.height : line % vectors;
      const int64_t row = kPlanes ? line % a.output.height : line / vectors, channel = vector * Kind::kCount;
      lines[thread] = {input.at(image, channel), a.output.at(roi, channel) + row * a.output.row_stride,
                       a.kind.tables.y().bins[roi * a.output.height + row],
                       static_cast<int>(min<int64_t>(Kind::kCount, a.output.channels - channel))};
    }
    __syncthreads();
    for (int64_t first_bin = 0; first_bin < a.output.width; first_bin += a.bins_of_thread_row) {
      const int width = static_cast<int>(min<int64_t>(a.bins_of_thread_row, a.output.width - first_bin));
      const int line = kPlanes ? thread / width : thread % count, place = kPlanes ? thread % width : thread / count;
      const bool has_bin = line < count && place < width;
      const Line<Kind> own = lines[has_bin ? line : 0];
      const int64_t bin = first_bin + (has_bin ? place : 0);
      const typename Kind::Bin across = a.kind.tables.x().bins[roi * a.output.width + bin];
      const ColumnRange range = a.kind.range(roi, across);
      typename Kind::Sum sum;
      a.kind.start(sum);
      const int most = kColumns / count;
      int begin = 0;
      do {
        const int some = min(most, num_columns - begin), inner = kPlanes ? some : count;
        const SmallDivisor by_inner(max(inner, 1));
        for (int i = thread; i < count * some; i += kThreads) {
          const int outer = by_inner.divide(i), rest = i - outer * inner;
          Column column;
          a.kind.reduce(input, lines[kPlanes ? outer : rest], roi, begin + (kPlanes ? rest : outer), column);
          columns[i] = column;
        }
        __syncthreads();
        if (has_bin) {
          const int of_line = kPlanes ? line * some : line, step = kPlanes ? 1 : count;
          for (int j = max(range.begin, begin); j < min(range.end, begin + some); ++j) {
            a.kind.add(sum, j, columns[of_line + (j - begin) * step], across);
          }
        }
        __syncthreads();  // the columns, and at last the lines, are done with
        begin += some;
      } while (begin < num_columns);
      if (has_bin) {
        write_channels<Kind::kLayout>(own.output + bin * a.output.pixel_stride, a.output.channel_stride, own.channels,
                                      a.kind.finish(sum, roi, own.rows, across));
      }
    }
  }
}

template <typename Kind, template <typename> typename MapsOrPyramid>
void launch_pool(const char* op, const Kind& kind, const MapsOrPyramid<const typename Kind::Input>& input,
                 const Maps<typename Kind::Output>& output, void* stream) {
  int64_t pixels = 0;
  for (int i = 0; i < input.count(); ++i) pixels += input.level(i).size * input.level(i).height * input.level(i).width;
  if (pixels == 0) {
    const int64_t bytes = output.size * output.channels * output.height * output.width * sizeof(*output.data);
    return clear(op, output.data, bytes, stream);
  }
  constexpr int64_t kManyParts = 4 * kManyBlocks;
  const int64_t width = min<int64_t>(output.width, kThreads), most = min<int64_t>(kThreads / width, kLines);
  const int64_t lines = (output.channels + Kind::kCount - 1) / Kind::kCount * output.height;
  const int64_t batches = (lines + most - 1) / most;
  const int64_t of_part = max<int64_t>(batches * output.size / kManyParts, 1),
                parts = (batches + of_part - 1) / of_part;
  launch(op, pool_kernel<Kind, MapsOrPyramid>, {output.size * parts, kThreads}, stream,
         {kind, input, output, lines, batches, of_part, static_cast<uint32_t>(parts),
          static_cast<int>((lines + batches - 1) / batches), static_cast<int>(width)});
}

// ---- Gradient: from bins to the pixels of a map --------------------------------------------------------------------

// Of a level. Fewer than 2^31 blocks: 64-bit divisions are slow.
struct Tiling {
  uint32_t first_block, rows, columns;
};

template <typename Kind, template <typename> typename MapsOrPyramid>
struct GatherArgs {
  using Output = MapsOrPyramid<typename Kind::Output>;
  Kind kind;  // with kLayout, kCount, kResident, Output, Sums, tables; add(roi, channel, channels, y, x, sums)
  Output output;
  Tiling tilings[Output::kMostLevels];
  uint32_t channel_groups;
  int pixel_bits, vectors;  // threads of a tile's pixel; 2^pixel_bits pixels

  DETOPS_D int level_of(uint32_t block) const {
    int i = 0;
    while (i + 1 < output.count() && block >= tilings[i + 1].first_block) ++i;
    return i;
  }
};

struct ListedRoi {
  int32_t roi;
  RoiSpan rows, columns;
};

// Bits 0, 2, 4, 6 of i.
DETOPS_D int every_second_bit(int i) { return (i & 1) | (i >> 1 & 2) | (i >> 2 & 4) | (i >> 3 & 8); }

DETOPS_D bool overlap(const RoiSpan& span, int64_t begin, int64_t end) { return span.begin < end && span.end > begin; }

// A block has a tile of an image, in some channels; a thread a pixel, with its channels' sums in registers. The block
// tests every region against the tile and lists those that touch it, in their order, in shared memory: sums have one
// order, and no list is stored or waited for.
template <typename Kind, template <typename> typename MapsOrPyramid>
__global__ void __launch_bounds__(kThreads, Kind::kResident) gather_kernel(GatherArgs<Kind, MapsOrPyramid> a) {
  DETOPS_SHARED(listed, ListedRoi[kMostListed]);
  DETOPS_SHARED(found_by_warp, int[kWarps]);
  const auto& tables = a.kind.tables;
  const int pixel = static_cast<int>(threadIdx.x) / a.vectors, vector = static_cast<int>(threadIdx.x) % a.vectors;
  const int tile_width = 1 << (a.pixel_bits + 1) / 2, tile_height = 1 << a.pixel_bits / 2;
  const int level = a.level_of(blockIdx.x);
  const Maps<typename Kind::Output>& output = a.output.level(level);
  const Tiling& tiling = a.tilings[level];
  const uint32_t block = blockIdx.x - tiling.first_block, above = block / tiling.columns;
  const int64_t first_x = int64_t{block % tiling.columns} * tile_width;
  const int64_t first_y = int64_t{above % tiling.rows} * tile_height;
  const int64_t group = above / tiling.rows % a.channel_groups, image = above / tiling.rows / a.channel_groups;
  const int64_t listed_image = level * output.size + image;
  // A warp's pixels are close to each other, and most regions touch all of them or none.
  const int64_t x = first_x + every_second_bit(pixel), y = first_y + every_second_bit(pixel >> 1);
  const int64_t channel = (group * a.vectors + vector) * Kind::kCount;
  const int channels = static_cast<int>(min<int64_t>(Kind::kCount, output.channels - channel));
  const bool has_pixel = x < output.width && y < output.height && channels > 0;
  typename Kind::Sums sums{};
  int num_listed = 0;
  for (int64_t first = 0; first < tables.num_rois; first += kThreads) {
    const int64_t roi = first + threadIdx.x;
    ListedRoi candidate{};
    if (roi < tables.num_rois && tables.images[roi] == listed_image) {
      candidate = {static_cast<int32_t>(roi), tables.y().spans[roi], tables.x().spans[roi]};
    }
    const bool touches = overlap(candidate.rows, first_y, first_y + tile_height) &&
                         overlap(candidate.columns, first_x, first_x + tile_width);
    const unsigned votes = ballot(touches);
    if (lane_id() == 0) found_by_warp[warp_id()] = __popc(votes);
    __syncthreads();
    int place = num_listed + __popc(votes & ((1u << lane_id()) - 1));
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp_id()) place += found_by_warp[w];
      num_listed += found_by_warp[w];
    }
    if (touches) listed[place] = candidate;
    __syncthreads();
    if (num_listed + kThreads <= kMostListed && first + kThreads < tables.num_rois) continue;
    for (int i = 0; i < num_listed; ++i) {
      const ListedRoi& from = listed[i];
      if (!has_pixel || y < from.rows.begin || y >= from.rows.end || x < from.columns.begin || x >= from.columns.end) {
        continue;
      }
      a.kind.add(from.roi, channel, channels, y, x, sums);
    }
    num_listed = 0;
    __syncthreads();  // the list is done with
  }
  if (!has_pixel) return;
  write_channels<Kind::kLayout>(output.at(image, channel) + y * output.row_stride + x * output.pixel_stride,
                                output.channel_stride, channels, sums);
}

template <typename Kind, template <typename> typename MapsOrPyramid>
void launch_gather(const char* op, const Kind& kind, const MapsOrPyramid<typename Kind::Output>& output, void* stream) {
  const int64_t vectors = (output.level(0).channels + Kind::kCount - 1) / Kind::kCount;
  int at_once = 1, pixel_bits = kThreadBits;
  while (Kind::kLayout != Layout::kPlanes && at_once < min<int64_t>(vectors, kWarp)) at_once *= 2, --pixel_bits;
  const int64_t tile_width = 1 << (pixel_bits + 1) / 2, tile_height = 1 << pixel_bits / 2;
  const int64_t groups = (vectors + at_once - 1) / at_once;
  GatherArgs<Kind, MapsOrPyramid> args{kind, output, {}, static_cast<uint32_t>(groups), pixel_bits, at_once};
  int64_t blocks = 0;
  for (int i = 0; i < output.count(); ++i) {
    const int64_t rows = (output.level(i).height + tile_height - 1) / tile_height;
    const int64_t columns = (output.level(i).width + tile_width - 1) / tile_width;
    args.tilings[i] = {static_cast<uint32_t>(blocks), static_cast<uint32_t>(rows), static_cast<uint32_t>(columns)};
    blocks += output.level(i).size * groups * rows * columns;
  }
  launch(op, gather_kernel<Kind, MapsOrPyramid>, {blocks, kThreads}, stream, args);
}
}  // namespace detops
