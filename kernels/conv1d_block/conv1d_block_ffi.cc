// Handlers of conv1d_block: decode, launch, status.
#include "kernels/conv1d_block/conv1d_block_ffi_decode.h"

namespace n2m::xla_ffi {
namespace {

ffi::Error Sums(ffi::ThreadPool pool, ffi::AnyBuffer x, F32Result sums) {
  Conv1dBlockShape s;
  N2M_RETURN_IF_ERROR(DecodeSums(x, sums, &s));
  Scratch scratch;
  N2M_RETURN_IF_ERROR(scratch.Allocate(GroupSumsScratch(s.batch, s.time, s.channels, s.groups),
                                       "n2m.conv1d_block"));
  XlaExecutor executor(pool);
  return ToError(GroupSums(x.untyped_data(), s.dtype, s.batch, s.time, s.channels, s.groups,
                           sums->typed_data(), scratch.data(), executor));
}

ffi::Error Forward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer weight, F32 bias,
                   F32 scale, F32 offset, F32 sums, ffi::AnyBuffer residual, ffi::AnyBuffer fc,
                   AnyResult y, std::optional<F32Result> out_sums, int64_t stride, float eps,
                   std::string_view algorithm) {
  Conv1dBlockShape s;
  Conv1dBlockInputs in;
  s.eps = eps;
  N2M_RETURN_IF_ERROR(CheckOptions(stride, algorithm, &s));
  N2M_RETURN_IF_ERROR(DecodeForward(x, weight, bias, scale, offset, sums, residual, fc,
                                    y->dimensions(), DimensionsOf(out_sums), &s, &in));
  XlaExecutor executor(pool);
  Scratch scratch;
  N2M_RETURN_IF_ERROR(
      scratch.Allocate(Conv1dBlockFwdScratch(s, executor.num_threads()), "n2m.conv1d_block"));
  return ToError(
      Conv1dBlockFwd(s, in, y->untyped_data(), ResultOrNull(out_sums), scratch.data(), executor));
}

ffi::Error Backward(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer weight, F32 scale,
                    F32 offset, F32 sums, ffi::AnyBuffer fc, ffi::AnyBuffer dy, ffi::AnyBuffer y,
                    F32 d_out_sums, AnyResult dx, std::optional<F32Result> dscale,
                    std::optional<F32Result> doffset, std::optional<F32Result> dsums,
                    std::optional<AnyResult> dresidual, int64_t stride, float eps,
                    std::string_view algorithm) {
  Conv1dBlockShape s;
  Conv1dBlockInputs in;
  Conv1dBlockCotangents cotangents;
  s.eps = eps;
  N2M_RETURN_IF_ERROR(CheckOptions(stride, algorithm, &s));
  N2M_RETURN_IF_ERROR(DecodeBackward(
      x, weight, scale, offset, sums, fc, dy, y, d_out_sums, dx->dimensions(), DimensionsOf(dscale),
      DimensionsOf(doffset), DimensionsOf(dsums), DimensionsOf(dresidual), &s, &in, &cotangents));
  Conv1dBlockGradients out;
  out.dx = dx->untyped_data();
  out.dscale = ResultOrNull(dscale);
  out.doffset = ResultOrNull(doffset);
  out.dsums = ResultOrNull(dsums);
  if (s.residual_channels > 0) out.dresidual = (*dresidual)->untyped_data();
  XlaExecutor executor(pool);
  Scratch scratch;
  N2M_RETURN_IF_ERROR(
      scratch.Allocate(Conv1dBlockBwdScratch(s, executor.num_threads()), "n2m.conv1d_block"));
  return ToError(Conv1dBlockBwd(s, in, cotangents, out, scratch.data(), executor));
}

ffi::Error BackwardWeight(ffi::ThreadPool pool, ffi::AnyBuffer x, F32 scale, F32 offset, F32 sums,
                          ffi::AnyBuffer residual, ffi::AnyBuffer dy, ffi::AnyBuffer y,
                          F32 d_out_sums, F32Result dweight, std::optional<F32Result> dbias,
                          std::optional<F32Result> dfc, int64_t stride, float eps,
                          std::string_view algorithm) {
  Conv1dBlockShape s;
  Conv1dBlockInputs in;
  Conv1dBlockCotangents cotangents;
  s.eps = eps;
  N2M_RETURN_IF_ERROR(CheckOptions(stride, algorithm, &s));
  N2M_RETURN_IF_ERROR(DecodeBackwardWeight(x, scale, offset, sums, residual, dy, y, d_out_sums,
                                           dweight->dimensions(), DimensionsOf(dbias),
                                           DimensionsOf(dfc), &s, &in, &cotangents));
  XlaExecutor executor(pool);
  Scratch scratch;
  N2M_RETURN_IF_ERROR(
      scratch.Allocate(Conv1dBlockBwdWeightScratch(s, executor.num_threads()), "n2m.conv1d_block"));
  return ToError(Conv1dBlockBwdWeight(s, in, cotangents, dweight->typed_data(), ResultOrNull(dbias),
                                      ResultOrNull(dfc), scratch.data(), executor));
}

#ifdef N2M_CUDA

// On a GPU every result is declared, since scratch is the last: an absent one is of shape (0,).
float* DataOrNull(F32Result& result) {
  return IsAbsent(result->dimensions()) ? nullptr : result->typed_data();
}

ffi::Error SumsCuda(void* stream, ffi::AnyBuffer x, F32Result sums, F32Result scratch) {
  Conv1dBlockShape s;
  N2M_RETURN_IF_ERROR(DecodeSums(x, sums, &s));
  N2M_RETURN_IF_ERROR(CheckScratch(
      scratch, cuda::GroupSumsScratch(s.batch, s.time, s.channels, s.groups), "n2m.conv1d_block"));
  return ToError(cuda::GroupSums(x.untyped_data(), s.dtype, s.batch, s.time, s.channels, s.groups,
                                 sums->typed_data(), scratch->typed_data(), stream));
}

ffi::Error ForwardCuda(void* stream, ffi::AnyBuffer x, ffi::AnyBuffer weight, F32 bias, F32 scale,
                       F32 offset, F32 sums, ffi::AnyBuffer residual, ffi::AnyBuffer fc,
                       AnyResult y, F32Result out_sums, F32Result scratch, int64_t stride,
                       float eps, std::string_view algorithm) {
  Conv1dBlockShape s;
  Conv1dBlockInputs in;
  s.eps = eps;
  N2M_RETURN_IF_ERROR(CheckOptions(stride, algorithm, &s));
  N2M_RETURN_IF_ERROR(DecodeForward(x, weight, bias, scale, offset, sums, residual, fc,
                                    y->dimensions(), out_sums->dimensions(), &s, &in));
  N2M_RETURN_IF_ERROR(CheckScratch(scratch, cuda::Conv1dBlockFwdScratch(s), "n2m.conv1d_block"));
  return ToError(cuda::Conv1dBlockFwd(s, in, y->untyped_data(), DataOrNull(out_sums),
                                      scratch->typed_data(), stream));
}

ffi::Error BackwardCuda(void* stream, ffi::AnyBuffer x, ffi::AnyBuffer weight, F32 scale,
                        F32 offset, F32 sums, ffi::AnyBuffer fc, ffi::AnyBuffer dy,
                        ffi::AnyBuffer y, F32 d_out_sums, AnyResult dx, F32Result dscale,
                        F32Result doffset, F32Result dsums, AnyResult dresidual, F32Result scratch,
                        int64_t stride, float eps, std::string_view algorithm) {
  Conv1dBlockShape s;
  Conv1dBlockInputs in;
  Conv1dBlockCotangents cotangents;
  s.eps = eps;
  N2M_RETURN_IF_ERROR(CheckOptions(stride, algorithm, &s));
  N2M_RETURN_IF_ERROR(DecodeBackward(
      x, weight, scale, offset, sums, fc, dy, y, d_out_sums, dx->dimensions(), dscale->dimensions(),
      doffset->dimensions(), dsums->dimensions(), dresidual->dimensions(), &s, &in, &cotangents));
  N2M_RETURN_IF_ERROR(CheckScratch(scratch, cuda::Conv1dBlockBwdScratch(s), "n2m.conv1d_block"));
  const Conv1dBlockGradients out = {dx->untyped_data(), DataOrNull(dscale), DataOrNull(doffset),
                                    DataOrNull(dsums), dresidual->untyped_data()};
  return ToError(cuda::Conv1dBlockBwd(s, in, cotangents, out, scratch->typed_data(), stream));
}

ffi::Error BackwardWeightCuda(void* stream, ffi::AnyBuffer x, F32 scale, F32 offset, F32 sums,
                              ffi::AnyBuffer residual, ffi::AnyBuffer dy, ffi::AnyBuffer y,
                              F32 d_out_sums, F32Result dweight, F32Result dbias, F32Result dfc,
                              F32Result scratch, int64_t stride, float eps,
                              std::string_view algorithm) {
  Conv1dBlockShape s;
  Conv1dBlockInputs in;
  Conv1dBlockCotangents cotangents;
  s.eps = eps;
  N2M_RETURN_IF_ERROR(CheckOptions(stride, algorithm, &s));
  N2M_RETURN_IF_ERROR(DecodeBackwardWeight(x, scale, offset, sums, residual, dy, y, d_out_sums,
                                           dweight->dimensions(), dbias->dimensions(),
                                           dfc->dimensions(), &s, &in, &cotangents));
  N2M_RETURN_IF_ERROR(
      CheckScratch(scratch, cuda::Conv1dBlockBwdWeightScratch(s), "n2m.conv1d_block"));
  return ToError(cuda::Conv1dBlockBwdWeight(s, in, cotangents, dweight->typed_data(),
                                            DataOrNull(dbias), DataOrNull(dfc),
                                            scratch->typed_data(), stream));
}

#endif

}  // namespace

N2M_DEFINE_HANDLER(n2m_conv1d_block_sums, Sums,
                   Bind()
                       .Arg<ffi::AnyBuffer>()  // x
                       .Ret<F32>());           // sums

// Absent operands are float32 of shape (0,).
N2M_DEFINE_HANDLER(n2m_conv1d_block_fwd, Forward,
                   Bind()
                       .Arg<ffi::AnyBuffer>()  // x
                       .Arg<ffi::AnyBuffer>()  // weight
                       .Arg<F32>()             // bias
                       .Arg<F32>()             // scale
                       .Arg<F32>()             // offset
                       .Arg<F32>()             // sums
                       .Arg<ffi::AnyBuffer>()  // residual
                       .Arg<ffi::AnyBuffer>()  // fc
                       .Ret<ffi::AnyBuffer>()  // y
                       .OptionalRet<F32>()     // sums of y
                       .Attr<int64_t>("stride")
                       .Attr<float>("eps")
                       .Attr<std::string_view>("algorithm"));

N2M_DEFINE_HANDLER(n2m_conv1d_block_bwd, Backward,
                   Bind()
                       .Arg<ffi::AnyBuffer>()          // x
                       .Arg<ffi::AnyBuffer>()          // weight
                       .Arg<F32>()                     // scale
                       .Arg<F32>()                     // offset
                       .Arg<F32>()                     // sums
                       .Arg<ffi::AnyBuffer>()          // fc
                       .Arg<ffi::AnyBuffer>()          // dy
                       .Arg<ffi::AnyBuffer>()          // y
                       .Arg<F32>()                     // cotangent of the sums of y
                       .Ret<ffi::AnyBuffer>()          // dx
                       .OptionalRet<F32>()             // dscale, one row a clip
                       .OptionalRet<F32>()             // doffset, one row a clip
                       .OptionalRet<F32>()             // dsums
                       .OptionalRet<ffi::AnyBuffer>()  // dresidual
                       .Attr<int64_t>("stride")
                       .Attr<float>("eps")
                       .Attr<std::string_view>("algorithm"));

N2M_DEFINE_HANDLER(n2m_conv1d_block_bwd_weight, BackwardWeight,
                   Bind()
                       .Arg<ffi::AnyBuffer>()  // x
                       .Arg<F32>()             // scale
                       .Arg<F32>()             // offset
                       .Arg<F32>()             // sums
                       .Arg<ffi::AnyBuffer>()  // residual
                       .Arg<ffi::AnyBuffer>()  // dy
                       .Arg<ffi::AnyBuffer>()  // y
                       .Arg<F32>()             // cotangent of the sums of y
                       .Ret<F32>()             // dweight
                       .OptionalRet<F32>()     // dbias
                       .OptionalRet<F32>()     // dfc
                       .Attr<int64_t>("stride")
                       .Attr<float>("eps")
                       .Attr<std::string_view>("algorithm"));

#ifdef N2M_CUDA

N2M_DEFINE_CUDA_HANDLER(n2m_conv1d_block_sums, SumsCuda,
                        BindCuda()
                            .Arg<ffi::AnyBuffer>()  // x
                            .Ret<F32>()             // sums
                            .Ret<F32>());           // scratch

N2M_DEFINE_CUDA_HANDLER(n2m_conv1d_block_fwd, ForwardCuda,
                        BindCuda()
                            .Arg<ffi::AnyBuffer>()  // x
                            .Arg<ffi::AnyBuffer>()  // weight
                            .Arg<F32>()             // bias
                            .Arg<F32>()             // scale
                            .Arg<F32>()             // offset
                            .Arg<F32>()             // sums
                            .Arg<ffi::AnyBuffer>()  // residual
                            .Arg<ffi::AnyBuffer>()  // fc
                            .Ret<ffi::AnyBuffer>()  // y
                            .Ret<F32>()             // sums of y
                            .Ret<F32>()             // scratch
                            .Attr<int64_t>("stride")
                            .Attr<float>("eps")
                            .Attr<std::string_view>("algorithm"));

N2M_DEFINE_CUDA_HANDLER(n2m_conv1d_block_bwd, BackwardCuda,
                        BindCuda()
                            .Arg<ffi::AnyBuffer>()  // x
                            .Arg<ffi::AnyBuffer>()  // weight
                            .Arg<F32>()             // scale
                            .Arg<F32>()             // offset
                            .Arg<F32>()             // sums
                            .Arg<ffi::AnyBuffer>()  // fc
                            .Arg<ffi::AnyBuffer>()  // dy
                            .Arg<ffi::AnyBuffer>()  // y
                            .Arg<F32>()             // cotangent of the sums of y
                            .Ret<ffi::AnyBuffer>()  // dx
                            .Ret<F32>()             // dscale, one row a clip
                            .Ret<F32>()             // doffset, one row a clip
                            .Ret<F32>()             // dsums
                            .Ret<ffi::AnyBuffer>()  // dresidual
                            .Ret<F32>()             // scratch
                            .Attr<int64_t>("stride")
                            .Attr<float>("eps")
                            .Attr<std::string_view>("algorithm"));

N2M_DEFINE_CUDA_HANDLER(n2m_conv1d_block_bwd_weight, BackwardWeightCuda,
                        BindCuda()
                            .Arg<ffi::AnyBuffer>()  // x
                            .Arg<F32>()             // scale
                            .Arg<F32>()             // offset
                            .Arg<F32>()             // sums
                            .Arg<ffi::AnyBuffer>()  // residual
                            .Arg<ffi::AnyBuffer>()  // dy
                            .Arg<ffi::AnyBuffer>()  // y
                            .Arg<F32>()             // cotangent of the sums of y
                            .Ret<F32>()             // dweight
                            .Ret<F32>()             // dbias
                            .Ret<F32>()             // dfc
                            .Ret<F32>()             // scratch
                            .Attr<int64_t>("stride")
                            .Attr<float>("eps")
                            .Attr<std::string_view>("algorithm"));

#endif

}  // namespace n2m::xla_ffi
