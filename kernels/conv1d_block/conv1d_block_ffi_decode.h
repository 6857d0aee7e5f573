// From the buffers of a call to the shape, inputs and cotangents of the launchers, with every shape
// and dtype checked; the same for the processor and for CUDA.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "csrc/xla/ffi_adapter.h"
#include "noise2music/conv1d_block.h"

namespace n2m::xla_ffi {

using F32 = ffi::Buffer<ffi::DataType::F32>;
using F32Result = ffi::Result<F32>;
using AnyResult = ffi::Result<ffi::AnyBuffer>;

// Operands that may be absent, by the axis of theirs that the shape needs.
inline int64_t AxisOrZero(ffi::AnyBuffer::Dimensions dims, size_t axis) {
  return IsAbsent(dims) ? 0 : dims[axis];
}
inline const float* DataOrNull(F32& buffer) {
  return IsAbsent(buffer.dimensions()) ? nullptr : buffer.typed_data();
}

// x, scale, offset and sums: what every pass but the statistics reads.
inline Status DecodeInput(ffi::AnyBuffer x, F32& scale, F32& offset, F32& sums, Conv1dBlockShape* s,
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

inline Status DecodeWeights(ffi::AnyBuffer weight, ffi::AnyBuffer fc, Conv1dBlockShape* s,
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
inline Status DecodeCotangents(ffi::AnyBuffer dy, ffi::AnyBuffer y, F32& d_out_sums,
                               Conv1dBlockShape* s, Conv1dBlockCotangents* cotangents) {
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

inline Status CheckOptions(int64_t stride, std::string_view algorithm, Conv1dBlockShape* s) {
  if (stride < 1) {
    return Status::InvalidArgument("n2m.conv1d_block: stride must be at least 1, got " +
                                   std::to_string(stride));
  }
  s->stride = stride;
  if (ParseConv1dAlgorithm(std::string(algorithm), &s->algorithm)) return Status::Ok();
  return Status::InvalidArgument(
      "n2m.conv1d_block: algorithm must be auto, direct, toom_cook or amx, got " +
      std::string(algorithm));
}

using Dimensions = ffi::AnyBuffer::Dimensions;

inline Status DecodeSums(ffi::AnyBuffer x, F32Result& sums, Conv1dBlockShape* s) {
  if (Status e = CheckDType(x.element_type(), &s->dtype, "n2m.conv1d_block: x"); !e.ok()) return e;
  if (Status e = CheckShape(x.dimensions(), {-1, -1, -1}, "n2m.conv1d_block: x"); !e.ok()) return e;
  s->batch = x.dimensions()[0];
  s->time = x.dimensions()[1];
  s->channels = x.dimensions()[2];
  if (Status e = CheckShape(sums->dimensions(), {s->batch, -1, 2}, "n2m.conv1d_block: sums");
      !e.ok()) {
    return e;
  }
  s->groups = sums->dimensions()[1];
  return Status::Ok();
}

// What stride and algorithm say is in *s already.
inline Status DecodeForward(ffi::AnyBuffer x, ffi::AnyBuffer weight, F32& bias, F32& scale,
                            F32& offset, F32& sums, ffi::AnyBuffer residual, ffi::AnyBuffer fc,
                            Dimensions y, Dimensions out_sums, Conv1dBlockShape* s,
                            Conv1dBlockInputs* in) {
  if (Status e = DecodeInput(x, scale, offset, sums, s, in); !e.ok()) return e;
  if (Status e = DecodeWeights(weight, fc, s, in); !e.ok()) return e;
  in->bias = DataOrNull(bias);
  if (in->bias != nullptr) {
    if (Status e = CheckShape(bias.dimensions(), {s->out_channels}, "n2m.conv1d_block: bias");
        !e.ok()) {
      return e;
    }
  }
  const int64_t time = Conv1dBlockOutTime(*s);
  if (s->residual_channels > 0) {
    if (Status e = CheckShape(residual.dimensions(), {s->batch, time, s->residual_channels},
                              "n2m.conv1d_block: residual");
        !e.ok()) {
      return e;
    }
    in->residual = residual.untyped_data();
  }
  s->out_groups = AxisOrZero(out_sums, 1);
  return CheckShape(y, {s->batch, time, s->out_channels}, "n2m.conv1d_block: y");
}

inline Status DecodeBackward(ffi::AnyBuffer x, ffi::AnyBuffer weight, F32& scale, F32& offset,
                             F32& sums, ffi::AnyBuffer fc, ffi::AnyBuffer dy, ffi::AnyBuffer y,
                             F32& d_out_sums, Dimensions dx, Dimensions dscale, Dimensions doffset,
                             Dimensions dsums, Dimensions dresidual, Conv1dBlockShape* s,
                             Conv1dBlockInputs* in, Conv1dBlockCotangents* cotangents) {
  if (Status e = DecodeInput(x, scale, offset, sums, s, in); !e.ok()) return e;
  if (Status e = DecodeCotangents(dy, y, d_out_sums, s, cotangents); !e.ok()) return e;
  if (Status e = DecodeWeights(weight, fc, s, in); !e.ok()) return e;
  const std::pair<Dimensions, const char*> a_clip[] = {{dscale, "n2m.conv1d_block: dscale"},
                                                       {doffset, "n2m.conv1d_block: doffset"}};
  for (const auto& [dims, name] : a_clip) {
    if (s->groups == 0) continue;
    if (Status e = CheckShape(dims, {s->batch, s->channels}, name); !e.ok()) return e;
  }
  if (s->groups > 0) {
    if (Status e = CheckShape(dsums, {s->batch, s->groups, 2}, "n2m.conv1d_block: dsums"); !e.ok())
      return e;
  }
  if (s->residual_channels > 0) {
    if (Status e = CheckShape(dresidual, {s->batch, Conv1dBlockOutTime(*s), s->residual_channels},
                              "n2m.conv1d_block: dresidual");
        !e.ok()) {
      return e;
    }
  }
  if (Status e = CheckShape(dy.dimensions(), {-1, -1, s->out_channels}, "n2m.conv1d_block: dy");
      !e.ok()) {
    return e;
  }
  return CheckShape(dx, {s->batch, s->time, s->channels}, "n2m.conv1d_block: dx");
}

inline Status DecodeBackwardWeight(ffi::AnyBuffer x, F32& scale, F32& offset, F32& sums,
                                   ffi::AnyBuffer residual, ffi::AnyBuffer dy, ffi::AnyBuffer y,
                                   F32& d_out_sums, Dimensions dweight, Dimensions dbias,
                                   Dimensions dfc, Conv1dBlockShape* s, Conv1dBlockInputs* in,
                                   Conv1dBlockCotangents* cotangents) {
  if (Status e = DecodeInput(x, scale, offset, sums, s, in); !e.ok()) return e;
  if (Status e = DecodeCotangents(dy, y, d_out_sums, s, cotangents); !e.ok()) return e;
  if (Status e =
          CheckShape(dweight, {-1, s->channels, s->out_channels}, "n2m.conv1d_block: dweight");
      !e.ok()) {
    return e;
  }
  s->kernel = dweight[0];
  s->residual_channels = AxisOrZero(dfc, 0);
  if (s->residual_channels > 0) {
    if (Status e = CheckShape(residual.dimensions(),
                              {s->batch, Conv1dBlockOutTime(*s), s->residual_channels},
                              "n2m.conv1d_block: residual");
        !e.ok()) {
      return e;
    }
    if (Status e =
            CheckShape(dfc, {s->residual_channels, s->out_channels}, "n2m.conv1d_block: dfc");
        !e.ok()) {
      return e;
    }
    in->residual = residual.untyped_data();
  }
  if (IsAbsent(dbias)) return Status::Ok();
  return CheckShape(dbias, {s->out_channels}, "n2m.conv1d_block: dbias");
}

}  // namespace n2m::xla_ffi
