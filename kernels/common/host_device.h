// Per-element mathematics that the kernels of the processor and of the GPU share.
#pragma once

// Inlined everywhere: in the SIMD code an out-of-line copy would belong to one instruction set.
#ifdef __CUDACC__
#define N2M_HOST_DEVICE __host__ __device__ inline
#else
#define N2M_HOST_DEVICE inline __attribute__((always_inline))
#endif
