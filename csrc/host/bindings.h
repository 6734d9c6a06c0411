// The host routines as functions of detops._C over NumPy arrays; the Python functions check their arguments.
#pragma once
#include <pybind11/pybind11.h>

namespace detops {
void bind_host(pybind11::module_& m);
}  // namespace detops
