# The CUDA toolkit, in a build with NOISE2MUSIC_CUDA=ON: enables the language CUDA and sets its
# architectures. Without that option nothing here is read, whatever the machine has.
#
# nvcc is taken from CMAKE_CUDA_COMPILER or $CUDACXX, the PATH, /usr/local/cuda, or else from the
# PyPI wheels (nvidia-cuda-nvcc and others) of the Python that builds; with N2M_CUDA_WHEELS=ON from
# the wheels alone.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_package(Python 3.11 QUIET COMPONENTS Interpreter)
  if(Python_EXECUTABLE)
    execute_process(
      COMMAND ${Python_EXECUTABLE} -c
              "import nvidia, pathlib; print(*(str(d) for p in nvidia.__path__ for d in pathlib.Path(p).glob('cu*/bin')), sep=';')"
      OUTPUT_VARIABLE n2m_cuda_wheels OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  if(N2M_CUDA_WHEELS)
    find_program(CMAKE_CUDA_COMPILER nvcc PATHS ${n2m_cuda_wheels} NO_DEFAULT_PATH)
  else()
    find_program(CMAKE_CUDA_COMPILER nvcc PATHS /usr/local/cuda/bin ${n2m_cuda_wheels})
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    message(FATAL_ERROR
      "noise2music: NOISE2MUSIC_CUDA=ON needs nvcc, and there is none on the PATH, in /usr/local/cuda or in this Python's "
      "packages. Install the CUDA toolkit (12.8 or newer), or its wheels: "
      "pip install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-cccl; or name one with CUDACXX=/path/to/nvcc.")
  endif()
endif()

# Code for Ampere and Hopper, and PTX that a driver compiles for newer GPUs. 90a, not 90: the tensor
# core instructions of Hopper belong to that architecture alone.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 90-virtual)
endif()
# The wheels keep their libraries in lib/, where nvcc itself does not look.
if(NOT CMAKE_CUDA_FLAGS AND CMAKE_CUDA_COMPILER)
  get_filename_component(n2m_cuda_root "${CMAKE_CUDA_COMPILER}" REALPATH)
  get_filename_component(n2m_cuda_root "${n2m_cuda_root}" DIRECTORY)
  if(EXISTS "${n2m_cuda_root}/../lib/libcudart_static.a")
    set(CMAKE_CUDA_FLAGS "-L${n2m_cuda_root}/../lib" CACHE STRING "Flags of nvcc")
  endif()
endif()
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
  message(FATAL_ERROR "noise2music: nvcc must be of CUDA 12.8 or newer, got ${CMAKE_CUDA_COMPILER_VERSION} "
                      "(${CMAKE_CUDA_COMPILER})")
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)

# Flags of every .cu file; a spilled register is a fault of ours, so ptxas says it.
add_library(n2m_cuda_flags INTERFACE)
target_compile_options(n2m_cuda_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo -Xcompiler=-Wall,-Wextra -Xptxas=-warn-spills>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${N2M_WERROR}>>:-Werror=all-warnings>)

add_library(noise2music_cuda STATIC)
add_library(noise2music::cuda ALIAS noise2music_cuda)
target_link_libraries(noise2music_cuda PRIVATE $<BUILD_INTERFACE:n2m_flags> $<BUILD_INTERFACE:n2m_cuda_flags>
                      PUBLIC noise2music_core)
set_target_properties(noise2music_cuda PROPERTIES EXPORT_NAME cuda)
target_compile_definitions(n2m_flags INTERFACE N2M_CUDA N2M_CUDA_VERSION="${CMAKE_CUDA_COMPILER_VERSION}")
