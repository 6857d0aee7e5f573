#include "csrc/xla/ffi_adapter.h"
#include "noise2music/ancestral_step.h"

namespace n2m::xla_ffi {
namespace {

using F32 = ffi::Buffer<ffi::DataType::F32>;
using F32Result = ffi::Result<F32>;

ffi::Error Forward(ffi::ThreadPool pool, F32 x_t, ffi::AnyBuffer eps_cond,
                   ffi::AnyBuffer eps_uncond, F32 z, F32 coefficients, F32Result x_s,
                   F32Result x_0) {
  AncestralStepShape s;
  N2M_RETURN_IF_ERROR(CheckShape(x_t.dimensions(), {-1, -1, -1}, "n2m.ancestral_step: x_t"));
  s.B = x_t.dimensions()[0];
  s.T = x_t.dimensions()[1];
  s.C = x_t.dimensions()[2];
  const std::initializer_list<int64_t> shape = {s.B, s.T, s.C};
  N2M_RETURN_IF_ERROR(CheckShape(eps_cond.dimensions(), shape, "n2m.ancestral_step: eps_cond"));
  N2M_RETURN_IF_ERROR(
      CheckDType(eps_cond.element_type(), &s.eps_dtype, "n2m.ancestral_step: eps_cond"));
  const bool guided = !IsAbsent(eps_uncond.dimensions());
  if (guided) {
    N2M_RETURN_IF_ERROR(
        CheckShape(eps_uncond.dimensions(), shape, "n2m.ancestral_step: eps_uncond"));
    DType dtype;
    N2M_RETURN_IF_ERROR(
        CheckDType(eps_uncond.element_type(), &dtype, "n2m.ancestral_step: eps_uncond"));
    if (dtype != s.eps_dtype) {
      return ToError(Status::InvalidArgument(
          "n2m.ancestral_step: eps_uncond must be of the type of eps_cond, got another"));
    }
  }
  N2M_RETURN_IF_ERROR(CheckShape(z.dimensions(), shape, "n2m.ancestral_step: z"));
  N2M_RETURN_IF_ERROR(
      CheckShape(coefficients.dimensions(), {8}, "n2m.ancestral_step: coefficients"));
  N2M_RETURN_IF_ERROR(CheckShape(x_s->dimensions(), shape, "n2m.ancestral_step: x_s"));
  N2M_RETURN_IF_ERROR(CheckShape(x_0->dimensions(), shape, "n2m.ancestral_step: x_0"));
  Scratch scratch;
  N2M_RETURN_IF_ERROR(scratch.Allocate(AncestralStepScratch(s), "n2m.ancestral_step"));
  XlaExecutor executor(pool);
  return ToError(AncestralStepFwd(s, x_t.typed_data(), eps_cond.untyped_data(),
                                  guided ? eps_uncond.untyped_data() : nullptr, z.typed_data(),
                                  coefficients.typed_data(), x_s->typed_data(), x_0->typed_data(),
                                  scratch.data(), executor));
}

}  // namespace

N2M_DEFINE_HANDLER(n2m_ancestral_step_fwd, Forward,
                   Bind()
                       .Arg<F32>()             // x_t
                       .Arg<ffi::AnyBuffer>()  // eps_cond
                       .Arg<ffi::AnyBuffer>()  // eps_uncond, (0,) without guidance
                       .Arg<F32>()             // z
                       .Arg<F32>()             // coefficients
                       .Ret<F32>()             // x_s
                       .Ret<F32>());           // x_0

}  // namespace n2m::xla_ffi
