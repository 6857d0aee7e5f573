#include "csrc/xla/ffi_adapter.h"
#include "noise2music/fft_upsample.h"

namespace n2m::xla_ffi {
namespace {

using AnyResult = ffi::Result<ffi::AnyBuffer>;

// `narrow` is x or dx (B, T, C), `wide` is y or dy (B, T * up / down, C).
Status Decode(ffi::AnyBuffer narrow, ffi::AnyBuffer wide, int64_t up, int64_t down,
              FftUpsampleShape* s) {
  if (Status e = CheckShape(narrow.dimensions(), {-1, -1, -1}, "n2m.fft_upsample: x"); !e.ok()) {
    return e;
  }
  if (Status e = CheckDType(narrow.element_type(), &s->dtype, "n2m.fft_upsample: x"); !e.ok()) {
    return e;
  }
  if (wide.element_type() != narrow.element_type()) {
    return Status::InvalidArgument("n2m.fft_upsample: y must be of the type of x, got another");
  }
  if (up < 1 || down < 1) {
    return Status::InvalidArgument("n2m.fft_upsample: up and down must be at least 1, got up=" +
                                   std::to_string(up) + " down=" + std::to_string(down));
  }
  s->B = narrow.dimensions()[0];
  s->T = narrow.dimensions()[1];
  s->C = narrow.dimensions()[2];
  s->up = up;
  s->down = down;
  return CheckShape(wide.dimensions(), {s->B, s->T * up / down, s->C}, "n2m.fft_upsample: y");
}

ffi::Error Forward(ffi::ThreadPool pool, ffi::AnyBuffer x, AnyResult y, int64_t up, int64_t down) {
  FftUpsampleShape s;
  N2M_RETURN_IF_ERROR(Decode(x, *y, up, down, &s));
  XlaExecutor executor(pool);
  Scratch scratch;
  N2M_RETURN_IF_ERROR(
      scratch.Allocate(FftUpsampleScratch(s, executor.num_threads()), "n2m.fft_upsample"));
  return ToError(FftUpsampleFwd(s, x.untyped_data(), y->untyped_data(), scratch.data(), executor));
}

ffi::Error Backward(ffi::ThreadPool pool, ffi::AnyBuffer dy, AnyResult dx, int64_t up,
                    int64_t down) {
  FftUpsampleShape s;
  N2M_RETURN_IF_ERROR(Decode(*dx, dy, up, down, &s));
  XlaExecutor executor(pool);
  Scratch scratch;
  N2M_RETURN_IF_ERROR(
      scratch.Allocate(FftUpsampleScratch(s, executor.num_threads()), "n2m.fft_upsample"));
  return ToError(
      FftUpsampleBwd(s, dy.untyped_data(), dx->untyped_data(), scratch.data(), executor));
}

#ifdef N2M_CUDA

using F32Result = ffi::Result<ffi::Buffer<ffi::DataType::F32>>;

ffi::Error ForwardCuda(void* stream, ffi::AnyBuffer x, AnyResult y, F32Result scratch, int64_t up,
                       int64_t down) {
  FftUpsampleShape s;
  N2M_RETURN_IF_ERROR(Decode(x, *y, up, down, &s));
  N2M_RETURN_IF_ERROR(CheckScratch(scratch, cuda::FftUpsampleScratch(s), "n2m.fft_upsample"));
  return ToError(
      cuda::FftUpsampleFwd(s, x.untyped_data(), y->untyped_data(), scratch->typed_data(), stream));
}

ffi::Error BackwardCuda(void* stream, ffi::AnyBuffer dy, AnyResult dx, F32Result scratch,
                        int64_t up, int64_t down) {
  FftUpsampleShape s;
  N2M_RETURN_IF_ERROR(Decode(*dx, dy, up, down, &s));
  N2M_RETURN_IF_ERROR(CheckScratch(scratch, cuda::FftUpsampleScratch(s), "n2m.fft_upsample"));
  return ToError(cuda::FftUpsampleBwd(s, dy.untyped_data(), dx->untyped_data(),
                                      scratch->typed_data(), stream));
}

#endif

}  // namespace

N2M_DEFINE_HANDLER(n2m_fft_upsample_fwd, Forward,
                   Bind()
                       .Arg<ffi::AnyBuffer>()  // x
                       .Ret<ffi::AnyBuffer>()  // y
                       .Attr<int64_t>("up")
                       .Attr<int64_t>("down"));

N2M_DEFINE_HANDLER(n2m_fft_upsample_bwd, Backward,
                   Bind()
                       .Arg<ffi::AnyBuffer>()  // dy
                       .Ret<ffi::AnyBuffer>()  // dx
                       .Attr<int64_t>("up")
                       .Attr<int64_t>("down"));

#ifdef N2M_CUDA

N2M_DEFINE_CUDA_HANDLER(n2m_fft_upsample_fwd, ForwardCuda,
                        BindCuda()
                            .Arg<ffi::AnyBuffer>()                   // x
                            .Ret<ffi::AnyBuffer>()                   // y
                            .Ret<ffi::Buffer<ffi::DataType::F32>>()  // scratch
                            .Attr<int64_t>("up")
                            .Attr<int64_t>("down"));

N2M_DEFINE_CUDA_HANDLER(n2m_fft_upsample_bwd, BackwardCuda,
                        BindCuda()
                            .Arg<ffi::AnyBuffer>()                   // dy
                            .Ret<ffi::AnyBuffer>()                   // dx
                            .Ret<ffi::Buffer<ffi::DataType::F32>>()  // scratch
                            .Attr<int64_t>("up")
                            .Attr<int64_t>("down"));

#endif

}  // namespace n2m::xla_ffi
