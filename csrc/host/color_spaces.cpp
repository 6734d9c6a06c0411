#include "color_spaces.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace detops {
namespace {
// Nearest integer to a / b, halves up, for a >= 0 and b > 0.
int rounded_quotient(int a, int b) { return (2 * a + b) / (2 * b); }

// Angle of the colour in 0 ... 255 for 0 ... 360 degrees; 0 for greys.
int hue(int r, int g, int b) {
  const int largest = std::max({r, g, b}), chroma = largest - std::min({r, g, b});
  if (chroma == 0) return 0;
  int sixths;  // of a turn, times chroma
  if (largest == r) {
    sixths = g >= b ? g - b : g - b + 6 * chroma;
  } else if (largest == g) {
    sixths = b - r + 2 * chroma;
  } else {
    sixths = r - g + 4 * chroma;
  }
  return rounded_quotient(255 * sixths, 6 * chroma);
}

int intensity(int r, int g, int b) { return rounded_quotient(r + g + b, 3); }

// CIE L*a*b* of sRGB under D65, through tables: L* in 0 ... 100 stretched to 0 ... 255, a* and b* moved by 128.
class LabTables {
 public:
  LabTables() {
    for (int i = 0; i < 256; ++i) {
      const double v = i / 255.0;
      const double linear = v <= 0.04045 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4);
      linear_[i] = static_cast<uint16_t>(std::lround(linear * kOne));
    }
    for (int i = 0; i <= kOne; ++i) {
      const double t = static_cast<double>(i) / kOne;
      const double root = t > 216.0 / 24389.0 ? std::cbrt(t) : (24389.0 / 27.0 * t + 16.0) / 116.0;
      root_[i] = static_cast<uint16_t>(std::lround(root * kOne));
    }
  }

  void convert(int r8, int g8, int b8, int* lab) const {
    const int r = linear_[r8], g = linear_[g8], b = linear_[b8];
    // Rows of the matrix over the white point, in 1 / 32768.
    const int x = root_[(14220 * r + 12328 * g + 6220 * b + 16384) >> 15];
    const int y = root_[(6969 * r + 23434 * g + 2365 * b + 16384) >> 15];
    const int z = root_[(582 * r + 3587 * g + 28599 * b + 16384) >> 15];
    lab[0] = rounded_quotient(2958 * y - 408 * kOne, 10 * kOne);  // (116 y - 16) * 2.55
    lab[1] = rounded_quotient(500 * (x - y) + 128 * kOne, kOne);
    lab[2] = rounded_quotient(200 * (y - z) + 128 * kOne, kOne);
  }

 private:
  static constexpr int kOne = 16383;
  std::array<uint16_t, 256> linear_;
  std::array<uint16_t, kOne + 1> root_;
};

template <int kChannels, typename Convert>
Planes<uint8_t> map_pixels(const ImageView& rgb, const Convert& convert) {
  Planes<uint8_t> planes(kChannels, rgb.height, rgb.width);
  for (int64_t y = 0; y < rgb.height; ++y) {
    for (int64_t x = 0; x < rgb.width; ++x) {
      const uint8_t* p = rgb.pixel(y, x);
      int channels[kChannels];
      convert(p[0], p[rgb.channel_stride], p[2 * rgb.channel_stride], channels);
      for (int c = 0; c < kChannels; ++c) planes.row(c, y)[x] = static_cast<uint8_t>(channels[c]);
    }
  }
  return planes;
}
}  // namespace

Planes<uint8_t> convert_color(const ImageView& rgb, ColorSpace space) {
  switch (space) {
    case ColorSpace::kHsv:
      return map_pixels<3>(rgb, [](int r, int g, int b, int* hsv) {
        const int largest = std::max({r, g, b}), chroma = largest - std::min({r, g, b});
        hsv[0] = hue(r, g, b);
        hsv[1] = largest == 0 ? 0 : rounded_quotient(255 * chroma, largest);
        hsv[2] = largest;
      });
    case ColorSpace::kLab: {
      static const LabTables tables;
      return map_pixels<3>(rgb, [](int r, int g, int b, int* lab) { tables.convert(r, g, b, lab); });
    }
    case ColorSpace::kRgi:
      return map_pixels<3>(rgb, [](int r, int g, int b, int* rgi) {
        const int sum = std::max(r + g + b, 1);
        rgi[0] = rounded_quotient(255 * r, sum);
        rgi[1] = rounded_quotient(255 * g, sum);
        rgi[2] = intensity(r, g, b);
      });
    case ColorSpace::kHue:
      return map_pixels<1>(rgb, [](int r, int g, int b, int* out) { *out = hue(r, g, b); });
    case ColorSpace::kIntensity:
      return map_pixels<1>(rgb, [](int r, int g, int b, int* out) { *out = intensity(r, g, b); });
    default:
      return map_pixels<3>(rgb, [](int r, int g, int b, int* out) { out[0] = r, out[1] = g, out[2] = b; });
  }
}
}  // namespace detops
