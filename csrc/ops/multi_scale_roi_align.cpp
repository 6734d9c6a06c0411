#include "multi_scale_roi_align.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "roi_means.h"

namespace detops {
namespace {
// Where levels lie: that of a region of `scale` x `scale` pixels is `level`.
struct CanonicalLevel {
  double scale;
  int64_t level;
};

// Equation 1 (roi_levels.h).
template <typename A>
A level_of_area(A area, const CanonicalLevel& canonical) {
  const A times = std::sqrt(area) / static_cast<A>(canonical.scale);
  const A octaves = static_cast<A>(std::log2(static_cast<double>(times)));
  return std::floor(static_cast<A>(canonical.level) + octaves + A(1e-6));
}

// The least area of that level or above, found by bisection: numbers are in the order of their bits.
template <typename A>
double least_area(double level, const CanonicalLevel& canonical) {
  using Bits = std::conditional_t<sizeof(A) == 8, uint64_t, uint32_t>;
  Bits low = 0, high = bit_cast<Bits>(std::numeric_limits<A>::infinity());
  while (low < high) {
    const Bits middle = low + (high - low) / 2;
    if (level_of_area(bit_cast<A>(middle), canonical) >= static_cast<A>(level)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return bit_cast<A>(low);
}

double level_of_scale(double scale) { return -std::round(std::log2(scale)); }

ScaledPyramid pyramid_maps(const std::vector<double>& scales, const std::vector<int64_t>& sizes, int64_t images,
                           const Tensor& rois, const CanonicalLevel& canonical) {
  ScaledPyramid maps{};
  maps.images = images;
  maps.levels.count = static_cast<int>(scales.size());
  maps.levels.wide = is_double(rois);
  for (size_t i = 0; i < scales.size(); ++i) {
    maps.maps[i] = {scales[i], sizes[2 * i], sizes[2 * i + 1]};
    if (i == 0) continue;
    const double before = level_of_scale(scales[i - 1]);
    double& least = maps.levels.least_area[i];
    if (before == level_of_scale(scales.back())) {
      least = std::numeric_limits<double>::quiet_NaN();
    } else {
      least = is_double(rois) ? least_area<double>(before + 1, canonical) : least_area<float>(before + 1, canonical);
    }
  }
  return maps;
}

void check_levels(const char* op, const char* name, size_t levels, const std::vector<double>& scales,
                  const CanonicalLevel& canonical) {
  constexpr size_t kMost = Pyramid<float>::kMostLevels;
  if (levels < 1) fail(op, "expected ", name, " of at least one level, got none");
  if (levels > kMost) fail(op, "expected ", name, " of at most ", kMost, " levels, got ", levels);
  if (scales.size() != levels) fail(op, "expected scales of ", levels, " levels, got ", scales.size());
  for (size_t i = 0; i < levels; ++i) {
    if (!(scales[i] > 0 && std::isfinite(scales[i]))) {
      fail(op, "expected scales[", i, "] above 0 and finite, got ", scales[i]);
    }
    if (i > 0 && scales[i] > scales[i - 1]) {
      fail(op, "expected scales from the finest level to the coarsest, got ", scales[i], " after ", scales[i - 1]);
    }
  }
  if (!(canonical.scale > 0 && std::isfinite(canonical.scale))) {
    fail(op, "expected canonical_scale above 0 and finite, got ", canonical.scale);
  }
}

void check_features(const char* op, const std::vector<Tensor>& features) {
  for (size_t i = 0; i < features.size(); ++i) {
    const std::string name = "features[" + std::to_string(i) + "]";
    const Tensor& first = features[0];
    check_floating(op, name.c_str(), features[i]);
    if (i == 0) {
      check_shape(op, name.c_str(), first, {kAny, kAny, kAny, kAny});
      continue;
    }
    check_shape(op, name.c_str(), features[i], {first.size(0), first.size(1), kAny, kAny});
    check_same_dtype(op, "features[0]", first, name.c_str(), features[i]);
    check_same_device(op, "features[0]", first, name.c_str(), features[i]);
  }
}
}  // namespace

Tensor multi_scale_roi_align(const std::vector<Tensor>& features, const Tensor& rois, const std::vector<double>& scales,
                             int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio,
                             double canonical_scale, int64_t canonical_level, bool aligned) {
  const char* op = "multi_scale_roi_align";
  const CanonicalLevel canonical{canonical_scale, canonical_level};
  check_levels(op, "features", features.size(), scales, canonical);
  check_features(op, features);
  const Tensor& first = features[0];
  check_rois(op, "features[0]", first, rois);
  check_pooled_size(op, pooled_height, pooled_width);
  std::vector<int64_t> sizes;
  for (const Tensor& level : features) sizes.insert(sizes.end(), {level.size(2), level.size(3)});
  Tensor output = new_regions(first, rois.size(0), pooled_height, pooled_width);
  const RoiAlignGrid grid{pooled_height, pooled_width, sampling_ratio, aligned};
  const ScaledPyramid maps = pyramid_maps(scales, sizes, first.size(0), rois, canonical);
  const bool wide = is_wide(first, rois);
  pool_means(op, features, rois, grid, maps, output,
             [&](const auto&... args) { multi_scale_roi_align_cuda(grid, maps, wide, args...); });
  return output;
}
DETOPS_OP(multi_scale_roi_align,
          "(Tensor[] features, Tensor rois, float[] scales, SymInt pooled_height, SymInt pooled_width, "
          "int sampling_ratio, float canonical_scale, int canonical_level, bool aligned) -> Tensor")

// `sizes` are the levels' heights and widths, one after the other.
std::vector<Tensor> multi_scale_roi_align_backward(const Tensor& grad, const Tensor& rois,
                                                   const std::vector<double>& scales, int64_t pooled_height,
                                                   int64_t pooled_width, int64_t batch, int64_t channels,
                                                   const std::vector<int64_t>& sizes, int64_t sampling_ratio,
                                                   double canonical_scale, int64_t canonical_level, bool aligned,
                                                   const std::vector<bool>& channels_last) {
  const char* op = "multi_scale_roi_align_backward";
  const CanonicalLevel canonical{canonical_scale, canonical_level};
  check_levels(op, "sizes", sizes.size() / 2, scales, canonical);
  if (channels_last.size() != scales.size()) {
    fail(op, "expected channels_last of ", scales.size(), " levels, got ", channels_last.size());
  }
  check_pooling_backward(op, grad, rois, channels, pooled_height, pooled_width);
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < scales.size(); ++i) {
    outputs.push_back(new_maps(grad, {batch, channels, sizes[2 * i], sizes[2 * i + 1]}, channels_last[i]));
  }
  const RoiAlignGrid grid{pooled_height, pooled_width, sampling_ratio, aligned};
  const ScaledPyramid maps = pyramid_maps(scales, sizes, batch, rois, canonical);
  const bool wide = is_wide(grad, rois);
  gather_means(op, grad, rois, grid, maps, outputs,
               [&](const auto&... args) { multi_scale_roi_align_backward_cuda(grid, maps, wide, args...); });
  return outputs;
}
DETOPS_OP(multi_scale_roi_align_backward,
          "(Tensor grad, Tensor rois, float[] scales, SymInt pooled_height, SymInt pooled_width, SymInt batch, "
          "SymInt channels, SymInt[] sizes, int sampling_ratio, float canonical_scale, int canonical_level, "
          "bool aligned, bool[] channels_last) -> Tensor[]")
}  // namespace detops
