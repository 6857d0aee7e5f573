// noise2music._native: the handlers as capsules, and how the library was built.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/cuda_scratch.h"
#include "noise2music/conv1d_block.h"
#include "noise2music/version.h"
#include "runtime/isa.h"
#include "xla/ffi/api/ffi.h"

#define N2M_HANDLER(target, platform) \
  extern "C" XLA_FFI_Error* target##_##platform(XLA_FFI_CallFrame*);
#include "csrc/xla/handlers.def"
#undef N2M_HANDLER

namespace {

namespace py = pybind11;

// {platform: {target: capsule}}, as jax.ffi.register_ffi_target takes them.
py::dict Registrations() {
  py::dict all;
#define N2M_HANDLER(target, platform)                        \
  if (!all.contains(#platform)) all[#platform] = py::dict(); \
  all[#platform][#target] = py::capsule(reinterpret_cast<void*>(&target##_##platform));
#include "csrc/xla/handlers.def"
#undef N2M_HANDLER
  return all;
}

py::dict BuildInfo() {
  py::dict info;
  info["version"] = NOISE2MUSIC_VERSION;
  info["compiler"] = __VERSION__;
  info["isa"] = n2m::IsaName(n2m::ActiveIsa());
  info["xla_ffi_api"] = std::to_string(XLA_FFI_API_MAJOR) + "." + std::to_string(XLA_FFI_API_MINOR);
#ifdef N2M_CUDA
  info["cuda"] = N2M_CUDA_VERSION;
#endif
  return info;
}

std::string Conv1dBlockPlan(int64_t batch, int64_t time, int64_t kernel, int64_t channels,
                            int64_t out_channels, int64_t stride, const std::string& dtype,
                            const std::string& algorithm) {
  n2m::Conv1dBlockShape shape;
  shape.batch = batch;
  shape.time = time;
  shape.kernel = kernel;
  shape.channels = channels;
  shape.out_channels = out_channels;
  shape.stride = stride;
  if (dtype == "bfloat16") shape.dtype = n2m::DType::kBFloat16;
  if (!n2m::ParseConv1dAlgorithm(algorithm, &shape.algorithm)) {
    throw py::value_error("n2m.conv1d_block: algorithm must be auto, direct or toom_cook, got " +
                          algorithm);
  }
  return n2m::Conv1dBlockPlan(shape);
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.def("registrations", &Registrations, "{platform: {target name: capsule}}");
  module.def("build_info", &BuildInfo,
             "version, compiler, isa (the instruction set in use), xla_ffi_api and, if built with "
             "it, cuda");
#ifdef N2M_CUDA
  module.def("cuda_scratch", &n2m::CudaScratch,
             "floats of scratch that a CUDA target needs, from its name and {size: int}");
  module.def(
      "conv1d_block_cuda_plan",
      [](const n2m::Sizes& sizes, int major, int processors) {
        return n2m::cuda::Conv1dBlockPlan(n2m::Conv1dBlockOf(sizes), major, processors);
      },
      "the kernel of each pass, from {size: int}, compute capability and multiprocessors");
#endif
  module.def(
      "conv1d_block_plan", &Conv1dBlockPlan,
      "the algorithm of each pass, from (batch, time, kernel, channels, out channels, stride, "
      "dtype, algorithm)");
}
