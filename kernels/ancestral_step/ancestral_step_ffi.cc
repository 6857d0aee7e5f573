#include "csrc/xla/ffi_adapter.h"
#include "noise2music/ancestral_step.h"

namespace n2m::xla_ffi {
namespace {

using F32 = ffi::Buffer<ffi::DataType::F32>;
using F32Result = ffi::Result<F32>;

// Reads the sizes and checks the shapes; *guided: whether there is an eps_uncond.
Status Decode(const F32& x_t, ffi::AnyBuffer eps_cond, ffi::AnyBuffer eps_uncond, const F32& z,
              const F32& coefficients, F32Result& x_s, F32Result& x_0, AncestralStepShape* s,
              bool* guided) {
  if (Status e = CheckShape(x_t.dimensions(), {-1, -1, -1}, "n2m.ancestral_step: x_t"); !e.ok())
    return e;
  s->B = x_t.dimensions()[0];
  s->T = x_t.dimensions()[1];
  s->C = x_t.dimensions()[2];
  *guided = !IsAbsent(eps_uncond.dimensions());
  const struct {
    ffi::AnyBuffer::Dimensions dims;
    const char* argument;
  } alike[] = {
      {eps_cond.dimensions(), "n2m.ancestral_step: eps_cond"},
      {*guided ? eps_uncond.dimensions() : eps_cond.dimensions(), "n2m.ancestral_step: eps_uncond"},
      {z.dimensions(), "n2m.ancestral_step: z"},
      {x_s->dimensions(), "n2m.ancestral_step: x_s"},
      {x_0->dimensions(), "n2m.ancestral_step: x_0"}};
  for (const auto& a : alike) {
    if (Status e = CheckShape(a.dims, {s->B, s->T, s->C}, a.argument); !e.ok()) return e;
  }
  if (Status e = CheckDType(eps_cond.element_type(), &s->eps_dtype, "n2m.ancestral_step: eps_cond");
      !e.ok())
    return e;
  if (*guided && eps_uncond.element_type() != eps_cond.element_type()) {
    return Status::InvalidArgument(
        "n2m.ancestral_step: eps_uncond must be of the type of eps_cond, got another");
  }
  return CheckShape(coefficients.dimensions(), {8}, "n2m.ancestral_step: coefficients");
}

ffi::Error Forward(ffi::ThreadPool pool, F32 x_t, ffi::AnyBuffer eps_cond,
                   ffi::AnyBuffer eps_uncond, F32 z, F32 coefficients, F32Result x_s,
                   F32Result x_0) {
  AncestralStepShape s;
  bool guided;
  N2M_RETURN_IF_ERROR(Decode(x_t, eps_cond, eps_uncond, z, coefficients, x_s, x_0, &s, &guided));
  Scratch scratch;
  N2M_RETURN_IF_ERROR(scratch.Allocate(AncestralStepScratch(s), "n2m.ancestral_step"));
  XlaExecutor executor(pool);
  return ToError(AncestralStepFwd(s, x_t.typed_data(), eps_cond.untyped_data(),
                                  guided ? eps_uncond.untyped_data() : nullptr, z.typed_data(),
                                  coefficients.typed_data(), x_s->typed_data(), x_0->typed_data(),
                                  scratch.data(), executor));
}

#ifdef N2M_CUDA

ffi::Error ForwardCuda(void* stream, F32 x_t, ffi::AnyBuffer eps_cond, ffi::AnyBuffer eps_uncond,
                       F32 z, F32 coefficients, F32Result x_s, F32Result x_0, F32Result scratch) {
  AncestralStepShape s;
  bool guided;
  N2M_RETURN_IF_ERROR(Decode(x_t, eps_cond, eps_uncond, z, coefficients, x_s, x_0, &s, &guided));
  N2M_RETURN_IF_ERROR(CheckScratch(scratch, cuda::AncestralStepScratch(s), "n2m.ancestral_step"));
  return ToError(cuda::AncestralStepFwd(
      s, x_t.typed_data(), eps_cond.untyped_data(), guided ? eps_uncond.untyped_data() : nullptr,
      z.typed_data(), coefficients.typed_data(), x_s->typed_data(), x_0->typed_data(),
      scratch->typed_data(), stream));
}

#endif

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

#ifdef N2M_CUDA

N2M_DEFINE_CUDA_HANDLER(n2m_ancestral_step_fwd, ForwardCuda,
                        BindCuda()
                            .Arg<F32>()             // x_t
                            .Arg<ffi::AnyBuffer>()  // eps_cond
                            .Arg<ffi::AnyBuffer>()  // eps_uncond, (0,) without guidance
                            .Arg<F32>()             // z
                            .Arg<F32>()             // coefficients
                            .Ret<F32>()             // x_s
                            .Ret<F32>()             // x_0
                            .Ret<F32>());           // scratch

#endif

}  // namespace n2m::xla_ffi
