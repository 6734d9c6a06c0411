#include "bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <string>
#include <unordered_map>

#include "anchor_sizes.h"
#include "pixel_graph.h"
#include "region_hierarchy.h"
#include "selective_search.h"

namespace py = pybind11;

namespace detops {
namespace {
using Bytes = py::array_t<uint8_t>;

ImageView view(const Bytes& image) {
  return {image.data(), image.shape(0), image.shape(1), image.strides(0), image.strides(1), image.strides(2)};
}

// The array owns the values; nothing is copied.
template <typename T>
py::array_t<T> to_array(std::vector<T> values, std::vector<py::ssize_t> shape) {
  auto* kept = new std::vector<T>(std::move(values));
  const py::capsule owner(kept, [](void* pointer) { delete static_cast<std::vector<T>*>(pointer); });
  return py::array_t<T>(std::move(shape), kept->data(), owner);
}

const std::unordered_map<std::string, ColorSpace> kColorSpaces = {
    {"rgb", ColorSpace::kRgb}, {"hsv", ColorSpace::kHsv}, {"lab", ColorSpace::kLab},
    {"rgi", ColorSpace::kRgi}, {"hue", ColorSpace::kHue}, {"intensity", ColorSpace::kIntensity}};

// "CTSF", or some of its letters, for colour, texture, size and fill.
unsigned similarities_of(const std::string& letters) {
  unsigned set = 0;
  for (const char letter : letters) set |= 1u << std::string("CTSF").find(letter);
  return set;
}

py::tuple search(const Bytes& image, const std::vector<std::string>& color_spaces, std::vector<double> scales,
                 const std::vector<std::string>& similarities, double sigma, int64_t min_size, uint64_t seed) {
  SearchSettings settings{{}, std::move(scales), {}, sigma, min_size, seed};
  for (const std::string& space : color_spaces) settings.color_spaces.push_back(kColorSpaces.at(space));
  for (const std::string& letters : similarities) settings.similarities.push_back(similarities_of(letters));
  const ImageView pixels = view(image);
  std::vector<int64_t> boxes;
  std::vector<double> ranks;
  {
    const py::gil_scoped_release release;
    for (const auto& [box, rank] : selective_search(pixels, settings)) {
      boxes.insert(boxes.end(), {box.x1, box.y1, box.x2, box.y2});
      ranks.push_back(rank);
    }
  }
  const auto n = static_cast<py::ssize_t>(ranks.size());
  return py::make_tuple(to_array(std::move(boxes), {n, 4}), to_array(std::move(ranks), {n}));
}

py::array_t<uint8_t> convert(const Bytes& image, const std::string& space) {
  Planes<uint8_t> planes = convert_color(view(image), kColorSpaces.at(space));
  const std::vector<py::ssize_t> shape = {planes.count, planes.height, planes.width};
  return to_array(std::move(planes.values), shape);
}

py::array_t<uint32_t> segment(const Bytes& image, double sigma, double k, int64_t min_size) {
  Segmentation result = PixelGraph(convert_color(view(image), ColorSpace::kRgb), sigma).segment(k, min_size);
  return to_array(std::move(result.labels), {image.shape(0), image.shape(1)});
}

using Numbers = py::array_t<double, py::array::c_style>;

// Of shape (2, N).
SizeColumns columns(const Numbers& sizes) { return {sizes.data(0, 0), sizes.data(1, 0), sizes.shape(1)}; }

std::vector<Size> to_sizes(const Numbers& anchors) {  // (k, 2)
  std::vector<Size> result;
  for (py::ssize_t i = 0; i < anchors.shape(0); ++i) result.push_back({anchors.at(i, 0), anchors.at(i, 1)});
  return result;
}

py::array_t<double> cluster(const Numbers& sizes, int64_t k, const std::string& metric, uint64_t seed,
                            int64_t max_iterations) {
  const SizeColumns given = columns(sizes);
  const Likeness likeness = metric == "iou" ? Likeness::kIou : Likeness::kRatio;
  std::vector<double> anchors;
  {
    const py::gil_scoped_release release;
    for (const Size& size : cluster_sizes(given, k, likeness, seed, max_iterations)) {
      anchors.insert(anchors.end(), {size.width, size.height});
    }
  }
  return to_array(std::move(anchors), {k, 2});
}

std::pair<double, double> fit(const Numbers& sizes, const Numbers& anchors, double threshold) {
  const SizeColumns given = columns(sizes);
  const std::vector<Size> candidates = to_sizes(anchors);
  const py::gil_scoped_release release;
  const AnchorFit result = fit_anchors(given, candidates, threshold);
  return {result.fitness, result.recall};
}
}  // namespace

void bind_host(py::module_& m) {
  m.def("selective_search", &search);
  m.def("cluster_sizes", &cluster);
  m.def("fit_anchors", &fit);
  m.def("convert_color", &convert, "For tests: the planes (C, H, W) of an RGB image in another colour space.");
  m.def("segment", &segment, "For tests: the labels (H, W) of an RGB image's graph-based segmentation.");
}
}  // namespace detops
