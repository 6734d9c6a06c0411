#include "pixel_graph.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/simd.h"

namespace detops {
namespace {
constexpr int kFraction = 64;                  // parts of a grey level in smoothed values and weights
constexpr int kTapBits = 14;                   // taps of the Gaussian add up to 2^14
constexpr uint16_t kNoEdge = 442 * kFraction;  // no weight is larger than sqrt(3) · 255 grey levels
constexpr int kDirections = 4;                 // right, down left, down, down right
constexpr int64_t kDown[kDirections] = {0, 1, 1, 1};
constexpr int64_t kRight[kDirections] = {1, -1, 0, 1};

// The centre and one side of a Gaussian cut off at four sigma.
std::vector<int32_t> gaussian_taps(double sigma) {
  constexpr int32_t kOne = 1 << kTapBits;
  if (sigma <= 0) return {kOne};
  const auto radius = static_cast<int64_t>(std::ceil(4 * sigma));
  std::vector<double> weights(radius + 1);
  for (int64_t r = 0; r <= radius; ++r) weights[r] = std::exp(-0.5 * (r / sigma) * (r / sigma));
  const double sum = weights[0] + 2 * std::accumulate(weights.begin() + 1, weights.end(), 0.0);
  std::vector<int32_t> taps(radius + 1);
  int32_t sides = 0;
  for (int64_t r = radius; r > 0; --r) {
    taps[r] = static_cast<int32_t>(std::lround(weights[r] / sum * kOne));
    sides += 2 * taps[r];
  }
  taps[0] = kOne - sides;
  while (taps.back() == 0) taps.pop_back();
  return taps;
}

// One line of the convolution: sums[x] = sum over r of taps[r] · lines[r][x], both sides.
template <typename T>
DETOPS_HD void weigh_lines(const std::vector<const T*>& before, const std::vector<const T*>& after,
                           const std::vector<int32_t>& taps, int64_t width, int32_t* sums) {
  const T* centre = before[0];
  for (int64_t x = 0; x < width; ++x) sums[x] = taps[0] * centre[x];
  for (size_t r = 1; r < taps.size(); ++r) {
    const int32_t tap = taps[r];
    const T *left = before[r], *right = after[r];
    for (int64_t x = 0; x < width; ++x) sums[x] += tap * (left[x] + right[x]);
  }
}

// Smooths with the border repeated, to 1 / 64 grey level.
Planes<int16_t> smooth(const Planes<uint8_t>& image, double sigma) {
  const std::vector<int32_t> taps = gaussian_taps(sigma);
  const auto radius = static_cast<int64_t>(taps.size()) - 1;
  const int64_t height = image.height, width = image.width;
  Planes<int16_t> smoothed(image.count, height, width);
  std::vector<int32_t> sums(width);
  std::vector<int16_t> padded(width + 2 * radius);
  std::vector<const uint8_t*> above(taps.size()), below(taps.size());
  std::vector<const int16_t*> left(taps.size()), right(taps.size());
  for (int64_t r = 0; r <= radius; ++r) {
    left[r] = padded.data() + radius - r;
    right[r] = padded.data() + radius + r;
  }
  for (int64_t c = 0; c < image.count; ++c) {
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t r = 0; r <= radius; ++r) {
        above[r] = image.row(c, std::max<int64_t>(y - r, 0));
        below[r] = image.row(c, std::min(y + r, height - 1));
      }
      simd([&](auto) DETOPS_INLINE {
        constexpr int kShift = kTapBits - 6;
        weigh_lines(above, below, taps, width, sums.data());
        int16_t* line = padded.data() + radius;
        for (int64_t x = 0; x < width; ++x) line[x] = static_cast<int16_t>((sums[x] + (1 << (kShift - 1))) >> kShift);
        std::fill(padded.begin(), padded.begin() + radius, line[0]);
        std::fill(padded.end() - radius, padded.end(), line[width - 1]);
        weigh_lines(left, right, taps, width, sums.data());
        int16_t* to = smoothed.row(c, y);
        for (int64_t x = 0; x < width; ++x) {
          to[x] = static_cast<int16_t>((sums[x] + (1 << (kTapBits - 1))) >> kTapBits);
        }
      });
    }
  }
  return smoothed;
}

// Distances of `n` pixels, each in all channels, from as many others.
DETOPS_HD void distances(const Planes<int16_t>& image, int64_t from, int64_t to, int64_t n, int32_t* sums,
                         uint16_t* out) {
  for (int64_t c = 0; c < image.count; ++c) {
    const int16_t* plane = image.values.data() + c * image.height * image.width;
    const int16_t *a = plane + from, *b = plane + to;
    for (int64_t i = 0; i < n; ++i) {
      const int32_t d = a[i] - b[i];
      sums[i] = (c == 0 ? 0 : sums[i]) + d * d;
    }
  }
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<uint16_t>(std::sqrt(static_cast<float>(sums[i])) + 0.5f);
}

// Disjoint sets of pixels, each with the weight that an edge must not exceed to join it to another.
class Components {
 public:
  Components(int64_t pixels, float k) : k_(k), parents_(pixels), sizes_(pixels, 1), limits_(pixels, k) {
    std::iota(parents_.begin(), parents_.end(), 0u);
  }

  uint32_t find(uint32_t pixel) {
    while (parents_[pixel] != pixel) {
      parents_[pixel] = parents_[parents_[pixel]];
      pixel = parents_[pixel];
    }
    return pixel;
  }

  void join(uint32_t a, uint32_t b, float weight) {
    if (sizes_[a] < sizes_[b]) std::swap(a, b);
    parents_[b] = a;
    sizes_[a] += sizes_[b];
    limits_[a] = weight + k_ / static_cast<float>(sizes_[a]);
  }

  uint32_t size(uint32_t root) const { return sizes_[root]; }
  float limit(uint32_t root) const { return limits_[root]; }

 private:
  float k_;
  std::vector<uint32_t> parents_, sizes_;
  std::vector<float> limits_;
};

Segmentation number_regions(Components& components, int64_t height, int64_t width) {
  constexpr uint32_t kUnseen = ~0u;
  Segmentation result{height, width, std::vector<uint32_t>(height * width)};
  std::vector<uint32_t> numbers(height * width, kUnseen);
  for (int64_t p = 0; p < height * width; ++p) {
    uint32_t& number = numbers[components.find(static_cast<uint32_t>(p))];
    if (number == kUnseen) number = result.count++;
    result.labels[p] = number;
  }
  return result;
}
}  // namespace

PixelGraph::PixelGraph(const Planes<uint8_t>& image, double sigma) : height_(image.height), width_(image.width) {
  const Planes<int16_t> smoothed = smooth(image, sigma);
  Planes<uint16_t> weights(kDirections, height_, width_);
  std::fill(weights.values.begin(), weights.values.end(), kNoEdge);
  std::vector<int32_t> sums(width_);
  for (int64_t y = 0; y < height_; ++y) {
    for (int direction = 0; direction < kDirections; ++direction) {
      const int64_t right = kRight[direction], first = std::max<int64_t>(-right, 0);
      const int64_t n = std::max<int64_t>(width_ - std::abs(right), 0);
      if (y + kDown[direction] >= height_) continue;
      const int64_t from = y * width_ + first, to = from + kDown[direction] * width_ + right;
      simd([&](auto)
               DETOPS_INLINE { distances(smoothed, from, to, n, sums.data(), weights.row(direction, y) + first); });
    }
  }
  sort_edges(weights);
}

void PixelGraph::sort_edges(const Planes<uint16_t>& weights) {
  std::vector<uint32_t> begins(kNoEdge + 2);
  for (const uint16_t weight : weights.values) ++begins[weight + 1];
  std::partial_sum(begins.begin(), begins.end(), begins.begin());
  weight_begins_.assign(begins.begin(), begins.end() - 1);
  edges_.resize(weights.values.size());
  const int64_t pixels = height_ * width_;
  for (int64_t p = 0; p < pixels; ++p) {
    for (int direction = 0; direction < kDirections; ++direction) {
      const uint16_t weight = weights.values[direction * pixels + p];
      edges_[begins[weight]++] = static_cast<uint32_t>(kDirections * p + direction);
    }
  }
}

Segmentation PixelGraph::segment(double k, int64_t min_size) const {
  uint32_t offsets[kDirections];
  for (int d = 0; d < kDirections; ++d) offsets[d] = static_cast<uint32_t>(kDown[d] * width_ + kRight[d]);
  Components components(height_ * width_, static_cast<float>(std::min(k, 1e30)));
  struct Pair {
    uint32_t a, b;
  };
  std::vector<Pair> between;  // regions of which one was too small when the edge between them was refused
  for (uint32_t weight = 0; weight < kNoEdge; ++weight) {
    const float w = static_cast<float>(weight) / kFraction;
    for (uint32_t e = weight_begins_[weight]; e < weight_begins_[weight + 1]; ++e) {
      const uint32_t pixel = edges_[e] / kDirections;
      const uint32_t a = components.find(pixel), b = components.find(pixel + offsets[edges_[e] % kDirections]);
      if (a == b) continue;
      if (w <= components.limit(a) && w <= components.limit(b)) {
        components.join(a, b, w);
      } else if (std::min(components.size(a), components.size(b)) < min_size) {
        between.push_back({a, b});
      }
    }
  }
  for (const Pair& pair : between) {
    const uint32_t a = components.find(pair.a), b = components.find(pair.b);
    if (a != b && std::min(components.size(a), components.size(b)) < min_size) components.join(a, b, 0);
  }
  return number_regions(components, height_, width_);
}
}  // namespace detops
