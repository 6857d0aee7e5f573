// Registration without Python: for C++ programs that run HLO with our custom calls in it.
#include "noise2music/xla.h"

#include "xla/ffi/api/ffi.h"

#define N2M_HANDLER(target, platform) \
  extern "C" XLA_FFI_Error* target##_##platform(XLA_FFI_CallFrame*);
#include "csrc/xla/handlers.def"
#undef N2M_HANDLER

namespace n2m {

Status RegisterXlaHandlers(const XLA_FFI_Api* api) {
  namespace ffi = ::xla::ffi;
  const struct {
    const char* name;
    const char* platform;
    XLA_FFI_Handler* handler;
  } handlers[] = {
#define N2M_HANDLER(target, platform) {#target, #platform, &target##_##platform},
#include "csrc/xla/handlers.def"
#undef N2M_HANDLER
  };
  for (const auto& h : handlers) {
    // XLA names the platforms of its registry "Host" and "CUDA".
    const std::string platform = std::string(h.platform) == "cpu" ? "Host" : h.platform;
    XLA_FFI_Handler_Bundle bundle = {};  // by name: later versions of XLA have more members
    bundle.execute = h.handler;
    if (XLA_FFI_Error* error = ffi::Ffi::RegisterStaticHandler(api, h.name, platform, bundle)) {
      std::string message = ffi::internal::GetErrorMessage(api, error);
      ffi::internal::DestroyError(api, error);
      return Status::InvalidArgument("n2m.xla: target " + std::string(h.name) +
                                     " must be registered once, got " + message);
    }
  }
  return Status::Ok();
}

}  // namespace n2m
