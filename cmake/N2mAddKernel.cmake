# n2m_add_kernel(<room>... [COPTS <flag>...])
#
# Adds kernels/<room>/<room>_cpu.cc to noise2music::core, in a build with CUDA
# kernels/<room>/<room>_cuda.cu to noise2music::cuda and, in a build with XLA,
# kernels/<room>/<room>_ffi.cc to the handlers. COPTS go to <room>_cpu.cc only; never put an
# instruction-set flag there (kernels/common/simd.h says why).
function(n2m_add_kernel)
  cmake_parse_arguments(arg "" "" "COPTS" ${ARGN})
  foreach(room IN LISTS arg_UNPARSED_ARGUMENTS)
    set(folder ${PROJECT_SOURCE_DIR}/kernels/${room})
    target_sources(noise2music_core PRIVATE ${folder}/${room}_cpu.cc)
    if(arg_COPTS)
      set_source_files_properties(${folder}/${room}_cpu.cc PROPERTIES COMPILE_OPTIONS "${arg_COPTS}")
    endif()
    if(TARGET noise2music_cuda)
      target_sources(noise2music_cuda PRIVATE ${folder}/${room}_cuda.cu)
    endif()
    if(TARGET noise2music_handlers)
      target_sources(noise2music_handlers PRIVATE ${folder}/${room}_ffi.cc)
    endif()
  endforeach()
endfunction()
