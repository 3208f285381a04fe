// The parts of the Python module.
#pragma once
#include <pybind11/pybind11.h>

#include "api.h"

namespace fastreg {

void bind_arguments(pybind11::module_ m);  // arguments.cpp
void bind_cpu(pybind11::module_ m);        // cpu.cpp
void bind_cuda(pybind11::module_ m);       // cuda.cpp, where nvcc was found

}  // namespace fastreg
