#include "selective_search.h"

#include <algorithm>
#include <exception>
#include <memory>

#include "core/parallel.h"
#include "region_hierarchy.h"

namespace detops {
namespace {
// Runs task(0) ... task(n - 1) on torch's threads; the first exception among them is thrown here.
template <typename Task>
void run_tasks(int64_t n, const Task& task) {
  std::vector<std::exception_ptr> errors(n);
  parallel_for(n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      try {
        task(i);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    }
  });
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

// The image in one colour space.
struct Colored {
  explicit Colored(const Planes<uint8_t>& planes, double sigma) : graph(planes, sigma), bins(planes) {}

  PixelGraph graph;
  PixelBins bins;
};
}  // namespace

std::vector<Proposal> selective_search(const ImageView& image, const SearchSettings& settings) {
  if (image.height == 0 || image.width == 0) return {};
  const auto spaces = static_cast<int64_t>(settings.color_spaces.size());
  const auto scales = static_cast<int64_t>(settings.scales.size());
  const auto groupings = static_cast<int64_t>(settings.similarities.size());
  std::vector<std::unique_ptr<Colored>> colored(spaces);
  run_tasks(spaces, [&](int64_t i) {
    colored[i] = std::make_unique<Colored>(convert_color(image, settings.color_spaces[i]), settings.sigma);
  });
  std::vector<std::vector<RegionBox>> hierarchies(spaces * scales * groupings);
  run_tasks(spaces * scales, [&](int64_t i) {
    const Colored& colors = *colored[i / scales];
    const double k = settings.scales[i % scales];
    const double smallest = settings.min_size < 0 ? std::min(k, double(PixelGraph::kMaxPixels)) : settings.min_size;
    const Regions regions(colors.graph.segment(k, static_cast<int64_t>(smallest)), colors.bins);
    for (int64_t g = 0; g < groupings; ++g) {
      hierarchies[i * groupings + g] = group_regions(regions, settings.similarities[g]);
    }
  });
  return rank_boxes(hierarchies, settings.seed);
}
}  // namespace detops
