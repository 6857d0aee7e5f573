// What a C++ program with an XLA runtime does before it compiles a StableHLO program that was
// exported from JAX with our custom calls in it. XLA's own C++ runtime comes in no package
// (docs/cpp.md), so this program stands in for it: its registry takes the handlers and lists them.
//   c++ -std=c++17 register_xla.cc -Inoise2music/include -Ijaxlib/include -lnoise2music_xla
//   -lnoise2music_core -pthread
#include <cstdio>
#include <string>

#include "noise2music/xla.h"
#include "xla/ffi/api/c_api.h"

namespace {

int registered = 0;

XLA_FFI_Error* Register(XLA_FFI_Handler_Register_Args* args) {
  const std::string name(args->name.ptr, args->name.len);
  const std::string platform(args->platform.ptr, args->platform.len);
  if (args->bundle.execute == nullptr) return nullptr;
  std::printf("%s on %s\n", name.c_str(), platform.c_str());
  ++registered;
  return nullptr;
}

}  // namespace

int main() {
  XLA_FFI_Api api{};  // a real program takes the one of its XLA: xla::ffi::GetXlaFfiApi()
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.XLA_FFI_Handler_Register = Register;
  const n2m::Status status = n2m::RegisterXlaHandlers(&api);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  return registered > 0 ? 0 : 1;
}
