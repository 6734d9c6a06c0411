// The Python module detops._C. Importing it registers every operator; it exposes the facts of
// the build and the routines over NumPy arrays.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/simd.h"
#include "host/bindings.h"

namespace py = pybind11;

namespace {
const std::vector<std::string> kInstructionSets = {"baseline", "avx2", "avx512"};

std::vector<std::string> supported_instruction_sets() {
  const auto best = static_cast<size_t>(detops::best_instruction_set());
#if defined(DETOPS_ONLY_AVX512) || defined(DETOPS_ONLY_AVX2)
  return {kInstructionSets[best]};
#else
  return {kInstructionSets.begin(), kInstructionSets.begin() + best + 1};
#endif
}

void set_instruction_set(const std::string& name) {
  for (const std::string& supported : supported_instruction_sets()) {
    if (supported == name) {
      const auto i = std::find(kInstructionSets.begin(), kInstructionSets.end(), name) - kInstructionSets.begin();
      detops::active_instruction_set = static_cast<detops::InstructionSet>(i);
      return;
    }
  }
  throw std::invalid_argument("set_instruction_set: expected one that this processor supports, got '" + name + "'");
}
}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("build_info", [] {
    py::dict info;
    info["version"] = DETOPS_VERSION;
    info["torch"] = DETOPS_BUILD_TORCH;
    info["cxx"] = DETOPS_BUILD_CXX;
    info["nvcc"] = DETOPS_BUILD_NVCC;
    return info;
  });
  m.def("instruction_sets", &supported_instruction_sets,
        "Those that the kernels were built for and this processor has.");
  m.def("instruction_set", [] { return kInstructionSets[static_cast<size_t>(detops::active_instruction_set)]; });
  m.def("set_instruction_set", &set_instruction_set, "Use a lesser one, for tests.");
  detops::bind_host(m);
}
