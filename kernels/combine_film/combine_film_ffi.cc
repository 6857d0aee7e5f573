#include "csrc/xla/ffi_adapter.h"
#include "noise2music/combine_film.h"

namespace n2m::xla_ffi {
namespace {

using F32 = ffi::Buffer<ffi::DataType::F32>;
using F32Result = ffi::Result<F32>;
using AnyResult = ffi::Result<ffi::AnyBuffer>;

// Reads the sizes off x and emb and checks what the passes share.
Status Decode(ffi::AnyBuffer x, const F32& emb, const F32& kernel, CombineFilmShape* s) {
  if (Status e = CheckDType(x.element_type(), &s->dtype, "n2m.combine_film: x"); !e.ok()) return e;
  if (Status e = CheckShape(x.dimensions(), {-1, -1, -1}, "n2m.combine_film: x"); !e.ok()) return e;
  s->B = x.dimensions()[0];
  s->T = x.dimensions()[1];
  s->C = x.dimensions()[2];
  if (Status e = CheckShape(emb.dimensions(), {s->B, -1}, "n2m.combine_film: emb"); !e.ok())
    return e;
  s->E = emb.dimensions()[1];
  return CheckShape(kernel.dimensions(), {s->E, 2 * s->C}, "n2m.combine_film: kernel");
}

using Dimensions = ffi::AnyBuffer::Dimensions;

Status DecodeForward(ffi::AnyBuffer x, const F32& emb, const F32& kernel, const F32& bias,
                     Dimensions y, Dimensions sums, int64_t groups, CombineFilmShape* s) {
  if (Status e = Decode(x, emb, kernel, s); !e.ok()) return e;
  s->G = groups;
  if (Status e = CheckShape(bias.dimensions(), {2 * s->C}, "n2m.combine_film: bias"); !e.ok())
    return e;
  if (Status e = CheckShape(y, {s->B, s->T, s->C}, "n2m.combine_film: y"); !e.ok()) return e;
  if (s->G <= 0) return Status::Ok();
  return CheckShape(sums, {s->B, s->G, 2}, "n2m.combine_film: sums");
}

Status DecodeBackward(ffi::AnyBuffer x, const F32& emb, const F32& kernel, const F32& bias,
                      ffi::AnyBuffer dy, const F32& dsums, AnyResult& dx, F32Result& dfilm,
                      int64_t groups, CombineFilmShape* s) {
  if (Status e =
          DecodeForward(x, emb, kernel, bias, dy.dimensions(), dsums.dimensions(), groups, s);
      !e.ok())
    return e;
  if (Status e = CheckShape(dx->dimensions(), {s->B, s->T, s->C}, "n2m.combine_film: dx"); !e.ok())
    return e;
  return CheckShape(dfilm->dimensions(), {s->B, 2 * s->C}, "n2m.combine_film: dfilm");
}

Status DecodeParams(const F32& emb, const F32& kernel, const F32& dfilm, F32Result& demb,
                    F32Result& dkernel, F32Result& dbias, CombineFilmShape* s) {
  if (Status e = CheckShape(emb.dimensions(), {-1, -1}, "n2m.combine_film: emb"); !e.ok()) return e;
  if (Status e = CheckShape(dbias->dimensions(), {-1}, "n2m.combine_film: dbias"); !e.ok())
    return e;
  s->B = emb.dimensions()[0];
  s->E = emb.dimensions()[1];
  s->C = dbias->dimensions()[0] / 2;
  const std::initializer_list<int64_t> emb_shape = {s->B, s->E}, kernel_shape = {s->E, 2 * s->C};
  if (Status e = CheckShape(kernel.dimensions(), kernel_shape, "n2m.combine_film: kernel"); !e.ok())
    return e;
  if (Status e = CheckShape(dfilm.dimensions(), {s->B, 2 * s->C}, "n2m.combine_film: dfilm");
      !e.ok())
    return e;
  if (Status e = CheckShape(demb->dimensions(), emb_shape, "n2m.combine_film: demb"); !e.ok())
    return e;
  return CheckShape(dkernel->dimensions(), kernel_shape, "n2m.combine_film: dkernel");
}

ffi::Error Forward(ffi::ThreadPool pool, ffi::AnyBuffer x, F32 emb, F32 kernel, F32 bias,
                   AnyResult y, std::optional<F32Result> sums, int64_t groups) {
  CombineFilmShape s;
  N2M_RETURN_IF_ERROR(
      DecodeForward(x, emb, kernel, bias, y->dimensions(), DimensionsOf(sums), groups, &s));
  Scratch scratch;
  N2M_RETURN_IF_ERROR(scratch.Allocate(CombineFilmFwdScratch(s), "n2m.combine_film"));
  XlaExecutor executor(pool);
  return ToError(CombineFilmFwd(s, x.untyped_data(), emb.typed_data(), kernel.typed_data(),
                                bias.typed_data(), y->untyped_data(), ResultOrNull(sums),
                                scratch.data(), executor));
}

ffi::Error Backward(ffi::ThreadPool pool, ffi::AnyBuffer x, F32 emb, F32 kernel, F32 bias,
                    ffi::AnyBuffer dy, F32 dsums, AnyResult dx, F32Result dfilm, int64_t groups) {
  CombineFilmShape s;
  N2M_RETURN_IF_ERROR(DecodeBackward(x, emb, kernel, bias, dy, dsums, dx, dfilm, groups, &s));
  Scratch scratch;
  N2M_RETURN_IF_ERROR(scratch.Allocate(CombineFilmBwdScratch(s), "n2m.combine_film"));
  XlaExecutor executor(pool);
  return ToError(CombineFilmBwd(s, x.untyped_data(), emb.typed_data(), kernel.typed_data(),
                                bias.typed_data(), dy.untyped_data(), dsums.typed_data(),
                                dx->untyped_data(), dfilm->typed_data(), scratch.data(), executor));
}

ffi::Error BackwardParams(ffi::ThreadPool pool, F32 emb, F32 kernel, F32 dfilm, F32Result demb,
                          F32Result dkernel, F32Result dbias) {
  CombineFilmShape s;
  N2M_RETURN_IF_ERROR(DecodeParams(emb, kernel, dfilm, demb, dkernel, dbias, &s));
  XlaExecutor executor(pool);
  return ToError(CombineFilmBwdParams(s, emb.typed_data(), kernel.typed_data(), dfilm.typed_data(),
                                      demb->typed_data(), dkernel->typed_data(),
                                      dbias->typed_data(), executor));
}

#ifdef N2M_CUDA

ffi::Error ForwardCuda(void* stream, ffi::AnyBuffer x, F32 emb, F32 kernel, F32 bias, AnyResult y,
                       F32Result sums, F32Result scratch, int64_t groups) {
  CombineFilmShape s;
  N2M_RETURN_IF_ERROR(
      DecodeForward(x, emb, kernel, bias, y->dimensions(), sums->dimensions(), groups, &s));
  N2M_RETURN_IF_ERROR(CheckScratch(scratch, cuda::CombineFilmFwdScratch(s), "n2m.combine_film"));
  return ToError(cuda::CombineFilmFwd(s, x.untyped_data(), emb.typed_data(), kernel.typed_data(),
                                      bias.typed_data(), y->untyped_data(), sums->typed_data(),
                                      scratch->typed_data(), stream));
}

ffi::Error BackwardCuda(void* stream, ffi::AnyBuffer x, F32 emb, F32 kernel, F32 bias,
                        ffi::AnyBuffer dy, F32 dsums, AnyResult dx, F32Result dfilm,
                        F32Result scratch, int64_t groups) {
  CombineFilmShape s;
  N2M_RETURN_IF_ERROR(DecodeBackward(x, emb, kernel, bias, dy, dsums, dx, dfilm, groups, &s));
  N2M_RETURN_IF_ERROR(CheckScratch(scratch, cuda::CombineFilmBwdScratch(s), "n2m.combine_film"));
  return ToError(cuda::CombineFilmBwd(s, x.untyped_data(), emb.typed_data(), kernel.typed_data(),
                                      bias.typed_data(), dy.untyped_data(), dsums.typed_data(),
                                      dx->untyped_data(), dfilm->typed_data(),
                                      scratch->typed_data(), stream));
}

ffi::Error BackwardParamsCuda(void* stream, F32 emb, F32 kernel, F32 dfilm, F32Result demb,
                              F32Result dkernel, F32Result dbias) {
  CombineFilmShape s;
  N2M_RETURN_IF_ERROR(DecodeParams(emb, kernel, dfilm, demb, dkernel, dbias, &s));
  return ToError(cuda::CombineFilmBwdParams(s, emb.typed_data(), kernel.typed_data(),
                                            dfilm.typed_data(), demb->typed_data(),
                                            dkernel->typed_data(), dbias->typed_data(), stream));
}

#endif

}  // namespace

N2M_DEFINE_HANDLER(n2m_combine_film_fwd, Forward,
                   Bind()
                       .Arg<ffi::AnyBuffer>()  // x
                       .Arg<F32>()             // emb
                       .Arg<F32>()             // kernel
                       .Arg<F32>()             // bias
                       .Ret<ffi::AnyBuffer>()  // y
                       .OptionalRet<F32>()     // sums, with groups
                       .Attr<int64_t>("groups"));

N2M_DEFINE_HANDLER(n2m_combine_film_bwd, Backward,
                   Bind()
                       .Arg<ffi::AnyBuffer>()  // x
                       .Arg<F32>()             // emb
                       .Arg<F32>()             // kernel
                       .Arg<F32>()             // bias
                       .Arg<ffi::AnyBuffer>()  // dy
                       .Arg<F32>()             // dsums, (0,) without groups
                       .Ret<ffi::AnyBuffer>()  // dx
                       .Ret<F32>()             // dfilm
                       .Attr<int64_t>("groups"));

N2M_DEFINE_HANDLER(n2m_combine_film_bwd_params, BackwardParams,
                   Bind()
                       .Arg<F32>()    // emb
                       .Arg<F32>()    // kernel
                       .Arg<F32>()    // dfilm
                       .Ret<F32>()    // demb
                       .Ret<F32>()    // dkernel
                       .Ret<F32>());  // dbias

#ifdef N2M_CUDA

N2M_DEFINE_CUDA_HANDLER(n2m_combine_film_fwd, ForwardCuda,
                        BindCuda()
                            .Arg<ffi::AnyBuffer>()  // x
                            .Arg<F32>()             // emb
                            .Arg<F32>()             // kernel
                            .Arg<F32>()             // bias
                            .Ret<ffi::AnyBuffer>()  // y
                            .Ret<F32>()             // sums, (0,) without groups
                            .Ret<F32>()             // scratch
                            .Attr<int64_t>("groups"));

N2M_DEFINE_CUDA_HANDLER(n2m_combine_film_bwd, BackwardCuda,
                        BindCuda()
                            .Arg<ffi::AnyBuffer>()  // x
                            .Arg<F32>()             // emb
                            .Arg<F32>()             // kernel
                            .Arg<F32>()             // bias
                            .Arg<ffi::AnyBuffer>()  // dy
                            .Arg<F32>()             // dsums, (0,) without groups
                            .Ret<ffi::AnyBuffer>()  // dx
                            .Ret<F32>()             // dfilm
                            .Ret<F32>()             // scratch
                            .Attr<int64_t>("groups"));

N2M_DEFINE_CUDA_HANDLER(n2m_combine_film_bwd_params, BackwardParamsCuda,
                        BindCuda()
                            .Arg<F32>()    // emb
                            .Arg<F32>()    // kernel
                            .Arg<F32>()    // dfilm
                            .Ret<F32>()    // demb
                            .Ret<F32>()    // dkernel
                            .Ret<F32>());  // dbias

#endif

}  // namespace n2m::xla_ffi
