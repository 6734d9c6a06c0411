// Per bin, the samples become a list of pixels and weights, found once for all channels; those are summed a vector of
// channels at a time (roi_tasks.h).
#include "roi_align_rotated.h"

#include <algorithm>
#include <vector>

#include "roi_tasks.h"

namespace detops {
namespace {
template <typename A>
struct PixelWeight {
  int32_t y, x;
  A weight;
};

// The pixels that each bin takes, bin by bin and region by region, each once a bin.
template <typename A>
class BinPixels {
 public:
  BinPixels(int64_t num_rois, int64_t bins, int64_t height, int64_t width)
      : bins_(bins), height_(height), width_(width) {
    begins_.reserve(num_rois * bins + 1);
    begins_.push_back(0);
    pixels_.reserve(num_rois * bins * 12);
    bands_.reserve(num_rois);
  }

  template <typename G>
  void add(const RotatedRoi<G>& roi, const RotatedRoiGrid& grid) {
    Band band{height_, 0};
    const int64_t first = begins_.back(), samples = roi.rows.samples * roi.columns.samples;
    const G share = G(1) / static_cast<G>(std::max<int64_t>(samples, 1));
    for (int64_t i = 0; i < grid.pooled_height; ++i) {
      for (int64_t j = 0; j < grid.pooled_width; ++j) {
        const bool many = samples > kFewSamples;
        if (many) places_.resize(height_ * width_, -1);
        for_each_sample(roi, i, j, height_, width_, [&](G x, G y) {
          const BilinearTaps<G> rows = bilinear_taps(y, height_), columns = bilinear_taps(x, width_);
          for (const auto& [row, row_weight] : {std::pair(rows.low, rows.low_weight), {rows.high, rows.high_weight}}) {
            add(row, columns.low, static_cast<A>(row_weight * columns.low_weight * share), many);
            add(row, columns.high, static_cast<A>(row_weight * columns.high_weight * share), many);
          }
        });
        if (many) {
          for (auto pixel = pixels_.begin() + begins_.back(); pixel != pixels_.end(); ++pixel) {
            places_[pixel->y * width_ + pixel->x] = -1;
          }
        }
        begins_.push_back(static_cast<int64_t>(pixels_.size()));
      }
    }
    for (int64_t p = first; p < begins_.back(); ++p) {
      band.begin = std::min<int64_t>(band.begin, pixels_[p].y);
      band.end = std::max<int64_t>(band.end, pixels_[p].y + 1);
    }
    bands_.push_back(band.begin < band.end ? band : Band{0, 0});
  }

  Band band(int64_t roi) const { return bands_[roi]; }

  // fn(bin, pixel) for those of a region.
  template <typename Fn>
  DETOPS_HD void for_each(int64_t roi, const Fn& fn) const {
    for (int64_t bin = 0; bin < bins_; ++bin)
      for_each_of_bin(roi, bin, [&](const auto& pixel) DETOPS_INLINE { fn(bin, pixel); });
  }
  template <typename Fn>
  DETOPS_HD void for_each_of_bin(int64_t roi, int64_t bin, const Fn& fn) const {
    const int64_t* begin = begins_.data() + roi * bins_ + bin;
    for (int64_t p = begin[0]; p < begin[1]; ++p) fn(pixels_.data()[p]);
  }

 private:
  static constexpr int64_t kFewSamples = 16;  // of a bin: up to here its pixels are looked through, else found by place

  void add(int64_t y, int64_t x, A weight, bool many) {
    if (weight == A(0)) return;
    if (many) {
      int32_t& place = places_[y * width_ + x];
      if (place >= 0) {
        pixels_[begins_.back() + place].weight += weight;
        return;
      }
      place = static_cast<int32_t>(static_cast<int64_t>(pixels_.size()) - begins_.back());
    } else {
      for (auto p = static_cast<int64_t>(pixels_.size()) - 1; p >= begins_.back(); --p) {
        if (pixels_[p].x == x && pixels_[p].y == y) {
          pixels_[p].weight += weight;
          return;
        }
      }
    }
    pixels_.push_back({static_cast<int32_t>(y), static_cast<int32_t>(x), weight});
  }

  int64_t bins_, height_, width_;
  std::vector<int64_t> begins_;
  std::vector<PixelWeight<A>> pixels_;
  std::vector<Band> bands_;
  std::vector<int32_t> places_;  // of the map's pixels in the list of the bin in progress
};

template <typename A>
struct RotatedRegions {
  static constexpr bool kReadsInput = false;
  int64_t bins;
  BinPixels<A> pixels;
  RoiOrder order;

  Band rows(int64_t roi) const { return pixels.band(roi); }
  int64_t sums() const { return 0; }
  void touch(int64_t roi, TouchedPixels& touched) const {
    pixels.for_each(roi, [&](int64_t, const auto& pixel) { touched.add(pixel.y, touched.blocks(pixel.x, pixel.x)); });
  }

  template <typename V, typename T>
  DETOPS_HD void pool(int64_t roi, const Rows<T>& map, V*, V* to) const {
    for (int64_t bin = 0; bin < bins; ++bin) {
      V sum{};
      pixels.for_each_of_bin(roi, bin, [&](const PixelWeight<A>& pixel) DETOPS_INLINE {
        sum += every_channel<V>(pixel.weight) * load_channels<V>(map[pixel.y] + pixel.x * map.pixel_stride);
      });
      to[bin] = sum;
    }
  }

  template <typename V>
  DETOPS_HD void add(int64_t roi, Band band, const Rows<V>&, V*, const V* from, const Rows<V>& slab) const {
    pixels.for_each(roi, [&](int64_t bin, const PixelWeight<A>& pixel) DETOPS_INLINE {
      if (pixel.y >= band.begin && pixel.y < band.end) {
        slab[pixel.y][pixel.x] += every_channel<V>(pixel.weight) * from[bin];
      }
    });
  }
};

template <typename A, typename G>
RotatedRegions<A> make_regions(const char* op, const RawBoxes& rois, const RotatedRoiGrid& grid, int64_t images,
                               int64_t height, int64_t width) {
  const int64_t bins = grid.pooled_height * grid.pooled_width;
  BinPixels<A> pixels(rois.size, bins, height, width);
  std::vector<int64_t> image_of(rois.size);
  for (int64_t k = 0; k < rois.size; ++k) {
    const auto [image, region] = load_rotated_roi<G>(rois, k, images, grid);
    if (image < 0) {
      const auto given = rois.visit([&](const auto* first) { return static_cast<double>(first[k * rois.row_stride]); });
      fail(op, "expected rois[:, 0] from 0 to ", images - 1, ", got ", given, " in row ", k);
    }
    image_of[k] = image;
    pixels.add(region, grid);
  }
  RoiOrder order(rois.size, [&](int64_t k) { return image_of[k]; }, [&](int64_t k) { return pixels.band(k).begin; });
  return {bins, std::move(pixels), std::move(order)};
}

template <typename A, typename... Args>
RotatedRegions<A> regions_of(bool wide, const Args&... args) {
  return wide ? make_regions<A, double>(args...) : make_regions<A, float>(args...);
}

// For CUDA, with memory that lasts as long as the result's.
struct PlacedArgs {
  RotatedRoiArgs args;
  Tensor memory;

  PlacedArgs(const char* op, const Tensor& maps, const Tensor& rois, const RotatedRoiGrid& grid, int64_t images,
             int64_t height, int64_t width)
      : args{grid,
             raw_rois(rois).rows,
             images,
             height,
             width,
             is_wide(maps, rois),
             {rois.size(0), nullptr, {}, nullptr}},
        memory((check_tables(op, rois, height, width), place_tables(args.tables, maps, false))) {}
};
}  // namespace

Tensor roi_align_rotated(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                         int64_t pooled_width, int64_t sampling_ratio, bool aligned, bool clockwise) {
  const char* op = "roi_align_rotated";
  check_pooling(op, input, rois, pooled_height, pooled_width, kRotatedRoiColumns);
  Tensor output = new_regions(input, rois.size(0), pooled_height, pooled_width);
  const RotatedRoiGrid grid{spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned, clockwise};
  const int64_t images = input.size(0), height = input.size(2), width = input.size(3);
  dispatch_floating(op, input, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    dispatch_device(
        input,
        [&] {
          const auto regions =
              regions_of<A>(is_wide(input, rois), op, raw_rois(rois).rows, grid, images, height, width);
          if (output.numel() == 0) return;
          pool_regions<A>(regions, maps_of<const T>(input), maps_of<T>(output));
        },
        [&](void* stream) {
          if (output.numel() == 0) return;
          const PlacedArgs placed(op, input, rois, grid, images, height, width);
          roi_align_rotated_cuda<T>(placed.args, maps_of<const T>(input), maps_of<T>(output), stream);
        });
  });
  return output;
}
DETOPS_OP(roi_align_rotated,
          "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
          "int sampling_ratio, bool aligned, bool clockwise) -> Tensor")

Tensor roi_align_rotated_backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                                  int64_t pooled_width, int64_t batch, int64_t channels, int64_t height, int64_t width,
                                  int64_t sampling_ratio, bool aligned, bool clockwise, bool channels_last) {
  const char* op = "roi_align_rotated_backward";
  check_pooling_backward(op, grad, rois, channels, pooled_height, pooled_width, kRotatedRoiColumns);
  Tensor output = new_maps(grad, {batch, channels, height, width}, channels_last);
  const RotatedRoiGrid grid{spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned, clockwise};
  dispatch_floating(op, grad, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    dispatch_device(
        grad,
        [&] {
          const auto regions = regions_of<A>(is_wide(grad, rois), op, raw_rois(rois).rows, grid, batch, height, width);
          if (output.numel() == 0) return;
          backpropagate_regions<A>(regions, maps_of<const T>(grad), maps_of<T>(output));
        },
        [&](void* stream) {
          if (output.numel() == 0) return;
          const PlacedArgs placed(op, grad, rois, grid, batch, height, width);
          roi_align_rotated_backward_cuda<T>(placed.args, maps_of<const T>(grad), maps_of<T>(output), stream);
        });
  });
  return output;
}
DETOPS_OP(roi_align_rotated_backward,
          "(Tensor grad, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, SymInt batch, "
          "SymInt channels, SymInt height, SymInt width, int sampling_ratio, bool aligned, bool clockwise, "
          "bool channels_last) -> Tensor")
}  // namespace detops
