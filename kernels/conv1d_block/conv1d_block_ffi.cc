#include <string>
#include <string_view>

#include "csrc/xla/ffi_adapter.h"
#include "noise2music/conv1d_block.h"

namespace n2m::xla_ffi {
namespace {

using F32 = ffi::Buffer<ffi::DataType::F32>;
using F32Result = ffi::Result<F32>;
using AnyResult = ffi::Result<ffi::AnyBuffer>;

// Operands that may be absent, by the axis of theirs that the shape needs.
int64_t AxisOrZero(ffi::AnyBuffer::Dimensions dims, size_t axis) {
  return IsAbsent(dims) ? 0 : dims[axis];
}
const float* DataOrNull(F32& buffer) {
  return IsAbsent(buffer.dimensions()) ? nullptr : buffer.typed_data();
}

// x, scale, offset and sums: what every pass but the statistics reads.
Status DecodeInput(ffi::AnyBuffer x, F32& scale, F32& offset, F32& sums, Conv1dBlockShape* s,
                   Conv1dBlockInputs* in) {
  if (Status e = CheckDType(x.element_type(), &s->dtype, "n2m.conv1d_block: x"); !e.ok()) return e;
  if (Status e = CheckShape(x.dimensions(), {-1, -1, -1}, "n2m.conv1d_block: x"); !e.ok()) return e;
  s->batch = x.dimensions()[0];
  s->time = x.dimensions()[1];
  s->channels = x.dimensions()[2];
  in->x = x.untyped_data();
  if (IsAbsent(scale.dimensions())) return Status::Ok();
  if (Status e = CheckShape(scale.dimensions(), {s->channels}, "n2m.conv1d_block: scale");
      !e.ok()) {
    return e;
  }
  if (Status e = CheckShape(offset.dimensions(), {s->channels}, "n2m.conv1d_block: offset");
      !e.ok()) {
    return e;
  }
  if (Status e = CheckShape(sums.dimensions(), {s->batch, -1, 2}, "n2m.conv1d_block: sums");
      !e.ok()) {
    return e;
  }
  s->groups = sums.dimensions()[1];
  in->scale = scale.typed_data();
  in->offset = offset.typed_data();
  in->sums = sums.typed_data();
  return Status::Ok();
}

Status DecodeWeights(ffi::AnyBuffer weight, ffi::AnyBuffer fc, Conv1dBlockShape* s,
                     Conv1dBlockInputs* in) {
  if (Status e = CheckDType(weight.element_type(), &s->weight_dtype, "n2m.conv1d_block: weight");
      !e.ok()) {
    return e;
  }
  if (Status e = CheckShape(weight.dimensions(), {-1, s->channels, -1}, "n2m.conv1d_block: weight");
      !e.ok()) {
    return e;
  }
  s->kernel = weight.dimensions()[0];
  s->out_channels = weight.dimensions()[2];
  in->weight = weight.untyped_data();
  s->residual_channels = AxisOrZero(fc.dimensions(), 0);
  if (s->residual_channels == 0) return Status::Ok();
  DType dtype;
  if (Status e = CheckDType(fc.element_type(), &dtype, "n2m.conv1d_block: fc"); !e.ok()) return e;
  if (dtype != s->weight_dtype) {
    return Status::InvalidArgument(
        "n2m.conv1d_block: fc must be of the dtype of weight, got another");
  }
  in->fc = fc.untyped_data();
  return CheckShape(fc.dimensions(), {s->residual_channels, s->out_channels},
                    "n2m.conv1d_block: fc");
}

// dy and, with sums of y, y and their cotangent. Sets out_channels and out_groups.
Status DecodeCotangents(ffi::AnyBuffer dy, ffi::AnyBuffer y, F32& d_out_sums, Conv1dBlockShape* s,
                        Conv1dBlockCotangents* cotangents) {
  if (Status e = CheckShape(dy.dimensions(), {s->batch, -1, -1}, "n2m.conv1d_block: dy"); !e.ok()) {
    return e;
  }
  s->out_channels = dy.dimensions()[2];
  if (Status e = CheckShape(dy.dimensions(), {s->batch, Conv1dBlockOutTime(*s), s->out_channels},
                            "n2m.conv1d_block: dy");
      !e.ok()) {
    return e;
  }
  cotangents->dy = dy.untyped_data();
  s->out_groups = AxisOrZero(d_out_sums.dimensions(), 1);
  if (s->out_groups == 0) return Status::Ok();
  cotangents->y = y.untyped_data();
  cotangents->d_out_sums = d_out_sums.typed_data();
  if (Status e = CheckShape(d_out_sums.dimensions(), {s->batch, s->out_groups, 2},
                            "n2m.conv1d_block: cotangent of sums");
      !e.ok()) {
    return e;
  }
  return CheckShape(y.dimensions(), {s->batch, Conv1dBlockOutTime(*s), s->out_channels},
                    "n2m.conv1d_block: y");
}

Status CheckOptions(int64_t stride, std::string_view algorithm, Conv1dBlockShape* s) {
  if (stride < 1) {
    return Status::InvalidArgument("n2m.conv1d_block: stride must be at least 1, got " +
                                   std::to_string(stride));
  }
  s->stride = stride;
  if (ParseConv1dAlgorithm(std::string(algorithm), &s->algorithm)) return Status::Ok();
  return Status::InvalidArgument(
      "n2m.conv1d_block: algorithm must be auto, direct or toom_cook, got " +
      std::string(algorithm));
}

ffi::Error Sums(ffi::ThreadPool pool, ffi::AnyBuffer x, F32Result sums) {
  Conv1dBlockShape s;
  N2M_RETURN_IF_ERROR(CheckDType(x.element_type(), &s.dtype, "n2m.conv1d_block: x"));
  N2M_RETURN_IF_ERROR(CheckShape(x.dimensions(), {-1, -1, -1}, "n2m.conv1d_block: x"));
  const int64_t batch = x.dimensions()[0], time = x.dimensions()[1], channels = x.dimensions()[2];
  N2M_RETURN_IF_ERROR(CheckShape(sums->dimensions(), {batch, -1, 2}, "n2m.conv1d_block: sums"));
  const int64_t groups = sums->dimensions()[1];
  Scratch scratch;
  N2M_RETURN_IF_ERROR(
      scratch.Allocate(GroupSumsScratch(batch, time, channels, groups), "n2m.conv1d_block"));
  XlaExecutor executor(pool);
  return ToError(GroupSums(x.untyped_data(), s.dtype, batch, time, channels, groups,
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
  N2M_RETURN_IF_ERROR(DecodeInput(x, scale, offset, sums, &s, &in));
  N2M_RETURN_IF_ERROR(DecodeWeights(weight, fc, &s, &in));
  in.bias = DataOrNull(bias);
  if (in.bias != nullptr) {
    N2M_RETURN_IF_ERROR(CheckShape(bias.dimensions(), {s.out_channels}, "n2m.conv1d_block: bias"));
  }
  const int64_t time = Conv1dBlockOutTime(s);
  if (s.residual_channels > 0) {
    N2M_RETURN_IF_ERROR(CheckShape(residual.dimensions(), {s.batch, time, s.residual_channels},
                                   "n2m.conv1d_block: residual"));
    in.residual = residual.untyped_data();
  }
  N2M_RETURN_IF_ERROR(
      CheckShape(y->dimensions(), {s.batch, time, s.out_channels}, "n2m.conv1d_block: y"));
  s.out_groups = AxisOrZero(DimensionsOf(out_sums), 1);
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
  N2M_RETURN_IF_ERROR(DecodeInput(x, scale, offset, sums, &s, &in));
  N2M_RETURN_IF_ERROR(DecodeCotangents(dy, y, d_out_sums, &s, &cotangents));
  N2M_RETURN_IF_ERROR(DecodeWeights(weight, fc, &s, &in));
  N2M_RETURN_IF_ERROR(
      CheckShape(dy.dimensions(), {-1, -1, s.out_channels}, "n2m.conv1d_block: dy"));
  N2M_RETURN_IF_ERROR(
      CheckShape(dx->dimensions(), {s.batch, s.time, s.channels}, "n2m.conv1d_block: dx"));
  Conv1dBlockGradients out;
  out.dx = dx->untyped_data();
  if (s.groups > 0) {
    N2M_RETURN_IF_ERROR(
        CheckShape(DimensionsOf(dscale), {s.batch, s.channels}, "n2m.conv1d_block: dscale"));
    N2M_RETURN_IF_ERROR(
        CheckShape(DimensionsOf(doffset), {s.batch, s.channels}, "n2m.conv1d_block: doffset"));
    N2M_RETURN_IF_ERROR(
        CheckShape(DimensionsOf(dsums), {s.batch, s.groups, 2}, "n2m.conv1d_block: dsums"));
    out.dscale = ResultOrNull(dscale);
    out.doffset = ResultOrNull(doffset);
    out.dsums = ResultOrNull(dsums);
  }
  if (s.residual_channels > 0) {
    N2M_RETURN_IF_ERROR(CheckShape(DimensionsOf(dresidual),
                                   {s.batch, Conv1dBlockOutTime(s), s.residual_channels},
                                   "n2m.conv1d_block: dresidual"));
    out.dresidual = (*dresidual)->untyped_data();
  }
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
  N2M_RETURN_IF_ERROR(DecodeInput(x, scale, offset, sums, &s, &in));
  N2M_RETURN_IF_ERROR(DecodeCotangents(dy, y, d_out_sums, &s, &cotangents));
  N2M_RETURN_IF_ERROR(CheckShape(dweight->dimensions(), {-1, s.channels, s.out_channels},
                                 "n2m.conv1d_block: dweight"));
  s.kernel = dweight->dimensions()[0];
  s.residual_channels = AxisOrZero(DimensionsOf(dfc), 0);
  if (s.residual_channels > 0) {
    N2M_RETURN_IF_ERROR(CheckShape(residual.dimensions(),
                                   {s.batch, Conv1dBlockOutTime(s), s.residual_channels},
                                   "n2m.conv1d_block: residual"));
    N2M_RETURN_IF_ERROR(CheckShape(DimensionsOf(dfc), {s.residual_channels, s.out_channels},
                                   "n2m.conv1d_block: dfc"));
    in.residual = residual.untyped_data();
  }
  float* bias = ResultOrNull(dbias);
  if (bias != nullptr) {
    N2M_RETURN_IF_ERROR(
        CheckShape(DimensionsOf(dbias), {s.out_channels}, "n2m.conv1d_block: dbias"));
  }
  XlaExecutor executor(pool);
  Scratch scratch;
  N2M_RETURN_IF_ERROR(
      scratch.Allocate(Conv1dBlockBwdWeightScratch(s, executor.num_threads()), "n2m.conv1d_block"));
  return ToError(Conv1dBlockBwdWeight(s, in, cotangents, dweight->typed_data(), bias,
                                      ResultOrNull(dfc), scratch.data(), executor));
}

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

}  // namespace n2m::xla_ffi
