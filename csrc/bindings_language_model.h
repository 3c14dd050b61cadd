// The n-gram language model's part of the extension module.
#pragma once

#include <pybind11/pybind11.h>

namespace voxformer {

void BindLanguageModel(pybind11::module_& module);

}  // namespace voxformer
