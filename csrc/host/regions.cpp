#include "regions.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/simd.h"

namespace detops {
namespace {
constexpr int64_t kColorBins = PixelBins::kColorBins, kTextureBins = PixelBins::kTextureBins;
constexpr int64_t kAxes = 4;  // 0, 45, 90, 135 degrees; half of the eight directions
constexpr int64_t kDirections = 2 * kAxes;
constexpr int64_t kBlock = 16;  // histograms are padded to whole SIMD blocks
constexpr int64_t kRadius = 3;
constexpr int32_t kSmooth[kRadius + 1] = {102, 62, 14, 1};    // a Gaussian of sigma 1, in 1/256
constexpr int32_t kDerivative[kRadius + 1] = {0, 62, 28, 3};  // its derivative, right minus left
constexpr float kSteepest = 64;  // derivatives from this on, in grey levels per pixel, share the last bin

int64_t padded(int64_t n) { return (n + kBlock - 1) / kBlock * kBlock; }

// 0 for a small derivative, 1 ... 9 for a positive one by size, 11 ... 19 for a negative one.
DETOPS_HD uint8_t sort_derivative(int32_t derivative, float bins_per_unit) {
  const int32_t bin = static_cast<int32_t>(min(std::fabs(static_cast<float>(derivative)) * bins_per_unit, 9.5f));
  return static_cast<uint8_t>(derivative < 0 && bin > 0 ? bin + kTextureBins : bin);
}

// Derivatives of one row along the four axes, as bins. `rows` are the seven rows around it, clamped to the image.
DETOPS_HD void sort_row(const std::array<const uint8_t*, 2 * kRadius + 1>& rows, int64_t width, int32_t* smoothed,
                        int32_t* steps, const std::array<uint8_t*, kAxes>& bins) {
  for (int64_t x = 0; x < width; ++x) {
    int32_t smooth = kSmooth[0] * rows[kRadius][x], step = 0;
    for (int64_t r = 1; r <= kRadius; ++r) {
      const int32_t above = rows[kRadius - r][x], below = rows[kRadius + r][x];
      smooth += kSmooth[r] * (below + above);
      step += kDerivative[r] * (below - above);
    }
    smoothed[x] = smooth;
    steps[x] = step;
  }
  for (int64_t r = 1; r <= kRadius; ++r) {
    smoothed[-r] = smoothed[0], smoothed[width - 1 + r] = smoothed[width - 1];
    steps[-r] = steps[0], steps[width - 1 + r] = steps[width - 1];
  }
  constexpr float kStraight = kTextureBins / (kSteepest * 65536), kDiagonal = kStraight * 0.70710678f;
  for (int64_t x = 0; x < width; ++x) {
    int32_t dx = 0, dy = kSmooth[0] * steps[x];
    for (int64_t r = 1; r <= kRadius; ++r) {
      dx += kDerivative[r] * (smoothed[x + r] - smoothed[x - r]);
      dy += kSmooth[r] * (steps[x + r] + steps[x - r]);
    }
    bins[0][x] = sort_derivative(dx, kStraight);
    bins[1][x] = sort_derivative(dx + dy, kDiagonal);
    bins[2][x] = sort_derivative(dy, kStraight);
    bins[3][x] = sort_derivative(dy - dx, kDiagonal);
  }
}

// Pairs of labels that touch, in order, each once.
std::vector<std::pair<uint32_t, uint32_t>> find_neighbours(const Segmentation& segmentation) {
  std::vector<std::pair<uint32_t, uint32_t>> pairs;
  std::vector<std::pair<uint32_t, uint32_t>> recent(4096);  // most repetitions stop here
  const auto meet = [&](uint32_t a, uint32_t b) {
    if (a == b) return;
    const std::pair<uint32_t, uint32_t> pair = std::minmax(a, b);
    auto& seen = recent[(pair.first * 31 + pair.second) % recent.size()];
    if (seen == pair) return;
    seen = pair;
    pairs.push_back(pair);
  };
  const int64_t height = segmentation.height, width = segmentation.width;
  for (int64_t y = 0; y < height; ++y) {
    const uint32_t* row = segmentation.labels.data() + y * width;
    const uint32_t* next = y + 1 < height ? row + width : row;
    for (int64_t x = 0; x + 1 < width; ++x) {
      if (row[x] == row[x + 1] && row[x] == next[x] && row[x] == next[x + 1]) continue;
      meet(row[x], row[x + 1]);
      meet(row[x], next[x]);
      meet(row[x], next[x + 1]);
      meet(row[x + 1], next[x]);
    }
    meet(row[width - 1], next[width - 1]);
  }
  std::sort(pairs.begin(), pairs.end());
  pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
  return pairs;
}
}  // namespace

PixelBins::PixelBins(const Planes<uint8_t>& image)
    : color(image.count, image.height, image.width), texture(kAxes * image.count, image.height, image.width) {
  const int64_t height = image.height, width = image.width;
  std::vector<int32_t> smoothed(width + 2 * kRadius), steps(width + 2 * kRadius);
  for (int64_t c = 0; c < image.count; ++c) {
    for (int64_t y = 0; y < height; ++y) {
      std::array<const uint8_t*, 2 * kRadius + 1> rows;
      for (int64_t r = -kRadius; r <= kRadius; ++r) {
        rows[r + kRadius] = image.row(c, std::clamp<int64_t>(y + r, 0, height - 1));
      }
      std::array<uint8_t*, kAxes> bins;
      for (int64_t axis = 0; axis < kAxes; ++axis) bins[axis] = texture.row(kAxes * c + axis, y);
      uint8_t* color_bins = color.row(c, y);
      simd([&](auto) DETOPS_INLINE {
        sort_row(rows, width, smoothed.data() + kRadius, steps.data() + kRadius, bins);
        for (int64_t x = 0; x < width; ++x) {
          color_bins[x] = static_cast<uint8_t>(rows[kRadius][x] * kColorBins / 256);
        }
      });
    }
  }
}

Regions::Regions(const Segmentation& segmentation, const PixelBins& bins)
    : image_size(segmentation.height * segmentation.width),
      channels(bins.channels()),
      color_stride(padded(channels * kColorBins)),
      stride(color_stride + padded(channels * kDirections * kTextureBins)),
      sizes(segmentation.count),
      boxes(segmentation.count, RegionBox{INT32_MAX, INT32_MAX, 0, 0}),
      histograms(segmentation.count * stride),
      neighbours(find_neighbours(segmentation)) {
  const int64_t width = segmentation.width;
  for (int64_t y = 0; y < segmentation.height; ++y) {
    const uint32_t* labels = segmentation.labels.data() + y * width;
    for (int64_t x = 0; x < width; ++x) {
      RegionBox& box = boxes[labels[x]];
      box.x1 = std::min(box.x1, static_cast<int32_t>(x));
      box.y1 = std::min(box.y1, static_cast<int32_t>(y));
      box.x2 = std::max(box.x2, static_cast<int32_t>(x) + 1);
      box.y2 = static_cast<int32_t>(y) + 1;
      ++sizes[labels[x]];
    }
    const auto count = [&](const uint8_t* bin, int64_t offset) {
      int32_t* counts = histograms.data() + offset;
      for (int64_t x = 0; x < width; ++x) ++counts[labels[x] * stride + bin[x]];
    };
    for (int64_t c = 0; c < channels; ++c) count(bins.color.row(c, y), c * kColorBins);
    for (int64_t a = 0; a < channels * kAxes; ++a) count(bins.texture.row(a, y), color_stride + a * 2 * kTextureBins);
  }
  // A pixel counts in both of two opposite directions, in one of them with a derivative of 0.
  for (int64_t region = 0; region < count(); ++region) {
    int32_t* texture = histogram(region) + color_stride;
    for (int64_t direction = 0; direction < channels * kDirections; ++direction) {
      int32_t* counts = texture + direction * kTextureBins;
      counts[0] = sizes[region];
      for (int64_t bin = 1; bin < kTextureBins; ++bin) counts[0] -= counts[bin];
    }
  }
}
}  // namespace detops
