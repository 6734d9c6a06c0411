// Pooling as two small matrices per region, one an axis: which pixels each bin reads, with which weights. RoIAlign's
// samples that meet in a pixel are merged, so that a bin of 2 x 2 of them costs 3 + 3 products a row and column,
// not 16.
#pragma once
#include <algorithm>
#include <vector>

#include "../math/roi.h"
#include "roi_tables.h"

namespace detops {
// One axis of one region.
template <typename A>
struct AxisTaps {
  const int32_t* pixels;  // touched, ascending
  int64_t num_pixels;
  const Taps* outputs;
  const A* weights;

  bool empty() const { return num_pixels == 0; }
  int64_t first_pixel() const { return pixels[0]; }
  int64_t last_pixel() const { return pixels[num_pixels - 1]; }
};

// One axis of all regions.
template <typename A>
class RoiTaps {
 public:
  RoiTaps(int64_t num_rois, int64_t bins) : bins_(bins) {
    starts_.reserve(num_rois + 1);
    starts_.push_back({0, 0});
    taps_.reserve(num_rois * bins);
    weights_.reserve(num_rois * bins * 4);
    pixels_.reserve(num_rois * bins * 3);
  }

  // Of the next region, on a map of `size` rows or columns.
  template <typename Axis>
  void add_bins(const Axis& axis, int64_t size) {
    const auto first_taps = static_cast<int64_t>(taps_.size());
    const auto first_pixel = static_cast<int64_t>(pixels_.size());
    taps_.resize(first_taps + bins_);
    for (int64_t b = 0; b < bins_; ++b) {  // in the order in which pixels ascend
      const int64_t bin = axis.reversed() ? bins_ - 1 - b : b;
      Taps& taps = taps_[first_taps + bin];
      taps = {0, 0, static_cast<int64_t>(weights_.size())};
      for_each_pixel<A>(axis, bin, bins_, size,
                        [&](int64_t pixel, A weight) { add(taps, first_pixel, pixel, weight); });
    }
    starts_.push_back({static_cast<int64_t>(pixels_.size()), static_cast<int64_t>(taps_.size())});
  }

  AxisTaps<A> operator[](int64_t roi) const {
    const Start& start = starts_[roi];
    return {pixels_.data() + start.pixels, starts_[roi + 1].pixels - start.pixels, taps_.data() + start.taps,
            weights_.data()};
  }

  // The transposed matrices: outputs are the touched pixels, inputs the bins.
  RoiTaps transposed() const {
    RoiTaps result(0, bins_);
    const auto num_rois = static_cast<int64_t>(starts_.size()) - 1;
    result.starts_.reserve(num_rois + 1);
    result.pixels_ = pixels_;
    result.taps_.reserve(pixels_.size());
    result.weights_.resize(weights_.size());
    int64_t used = 0;
    for (int64_t roi = 0; roi < num_rois; ++roi) {
      const AxisTaps<A> axis = (*this)[roi];
      const auto begin = static_cast<int64_t>(result.taps_.size());
      result.taps_.resize(begin + axis.num_pixels, Taps{0, 0, 0});
      Taps* by_pixel = result.taps_.data() + begin;
      for (int64_t bin = 0; bin < bins_; ++bin) {
        const Taps& taps = axis.outputs[bin];
        for (int64_t i = taps.first; i < taps.first + taps.count; ++i) {
          if (by_pixel[i].count++ == 0) by_pixel[i].first = static_cast<int32_t>(bin);
        }
      }
      for (int64_t i = 0; i < axis.num_pixels; ++i) {
        by_pixel[i].weights = used;
        used += by_pixel[i].count;
      }
      for (int64_t bin = 0; bin < bins_; ++bin) {
        const Taps& taps = axis.outputs[bin];
        for (int64_t k = 0; k < taps.count; ++k) {
          const Taps& to = by_pixel[taps.first + k];
          result.weights_[to.weights + bin - to.first] = axis.weights[taps.weights + k];
        }
      }
      result.starts_.push_back({starts_[roi + 1].pixels, static_cast<int64_t>(result.taps_.size())});
    }
    return result;
  }

  // That any region touches.
  int64_t most_pixels() const {
    int64_t most = 0;
    for (size_t i = 1; i < starts_.size(); ++i) most = std::max(most, starts_[i].pixels - starts_[i - 1].pixels);
    return most;
  }

 private:
  struct Start {
    int64_t pixels, taps;
  };

  // Of what an earlier bin touched, a pixel can be the last or the one before it.
  void add(Taps& taps, int64_t first_pixel, int64_t pixel, A weight) {
    const auto end = static_cast<int64_t>(pixels_.size());
    int64_t position = end - first_pixel;
    if (end == first_pixel || pixel > pixels_.back()) {
      pixels_.push_back(static_cast<int32_t>(pixel));
    } else {
      position -= 1 + pixels_.back() - pixel;
    }
    if (taps.count++ == 0) taps.first = static_cast<int32_t>(position);
    weights_.push_back(weight);
  }

  int64_t bins_;
  std::vector<Start> starts_;
  std::vector<int32_t> pixels_;
  std::vector<Taps> taps_;
  std::vector<A> weights_;
};
}  // namespace detops
