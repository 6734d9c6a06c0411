// Colour spaces, each channel in 0 ... 255.
#pragma once
#include "image.h"

namespace detops {
enum class ColorSpace { kRgb, kHsv, kLab, kRgi, kHue, kIntensity };

// The image's channels in another space: three planes, one for hue and intensity.
Planes<uint8_t> convert_color(const ImageView& rgb, ColorSpace space);
}  // namespace detops
