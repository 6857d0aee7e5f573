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

ffi::Error Forward(ffi::ThreadPool pool, ffi::AnyBuffer x, F32 emb, F32 kernel, F32 bias,
                   AnyResult y, std::optional<F32Result> sums, int64_t groups) {
  CombineFilmShape s;
  N2M_RETURN_IF_ERROR(Decode(x, emb, kernel, &s));
  s.G = groups;
  N2M_RETURN_IF_ERROR(CheckShape(bias.dimensions(), {2 * s.C}, "n2m.combine_film: bias"));
  N2M_RETURN_IF_ERROR(CheckShape(y->dimensions(), {s.B, s.T, s.C}, "n2m.combine_film: y"));
  if (s.G > 0) {
    N2M_RETURN_IF_ERROR(CheckShape(DimensionsOf(sums), {s.B, s.G, 2}, "n2m.combine_film: sums"));
  }
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
  N2M_RETURN_IF_ERROR(Decode(x, emb, kernel, &s));
  s.G = groups;
  N2M_RETURN_IF_ERROR(CheckShape(bias.dimensions(), {2 * s.C}, "n2m.combine_film: bias"));
  N2M_RETURN_IF_ERROR(CheckShape(dy.dimensions(), {s.B, s.T, s.C}, "n2m.combine_film: dy"));
  N2M_RETURN_IF_ERROR(CheckShape(dx->dimensions(), {s.B, s.T, s.C}, "n2m.combine_film: dx"));
  N2M_RETURN_IF_ERROR(CheckShape(dfilm->dimensions(), {s.B, 2 * s.C}, "n2m.combine_film: dfilm"));
  if (s.G > 0) {
    N2M_RETURN_IF_ERROR(CheckShape(dsums.dimensions(), {s.B, s.G, 2}, "n2m.combine_film: dsums"));
  }
  Scratch scratch;
  N2M_RETURN_IF_ERROR(scratch.Allocate(CombineFilmBwdScratch(s), "n2m.combine_film"));
  XlaExecutor executor(pool);
  return ToError(CombineFilmBwd(s, x.untyped_data(), emb.typed_data(), kernel.typed_data(),
                                bias.typed_data(), dy.untyped_data(), dsums.typed_data(),
                                dx->untyped_data(), dfilm->typed_data(), scratch.data(), executor));
}

ffi::Error BackwardParams(ffi::ThreadPool pool, F32 emb, F32 kernel, F32 dfilm, F32Result demb,
                          F32Result dkernel, F32Result dbias) {
  N2M_RETURN_IF_ERROR(CheckShape(emb.dimensions(), {-1, -1}, "n2m.combine_film: emb"));
  N2M_RETURN_IF_ERROR(CheckShape(dbias->dimensions(), {-1}, "n2m.combine_film: dbias"));
  CombineFilmShape s;
  s.B = emb.dimensions()[0];
  s.E = emb.dimensions()[1];
  s.C = dbias->dimensions()[0] / 2;
  const std::initializer_list<int64_t> emb_shape = {s.B, s.E}, kernel_shape = {s.E, 2 * s.C};
  N2M_RETURN_IF_ERROR(CheckShape(kernel.dimensions(), kernel_shape, "n2m.combine_film: kernel"));
  N2M_RETURN_IF_ERROR(CheckShape(dfilm.dimensions(), {s.B, 2 * s.C}, "n2m.combine_film: dfilm"));
  N2M_RETURN_IF_ERROR(CheckShape(demb->dimensions(), emb_shape, "n2m.combine_film: demb"));
  N2M_RETURN_IF_ERROR(CheckShape(dkernel->dimensions(), kernel_shape, "n2m.combine_film: dkernel"));
  XlaExecutor executor(pool);
  return ToError(CombineFilmBwdParams(s, emb.typed_data(), kernel.typed_data(), dfilm.typed_data(),
                                      demb->typed_data(), dkernel->typed_data(),
                                      dbias->typed_data(), executor));
}

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

}  // namespace n2m::xla_ffi
