# Finds the XLA FFI headers that come with jaxlib. Sets XlaFfi_FOUND and makes the target XlaFfi::headers.
# Set XLA_FFI_INCLUDE_DIR to use another copy.
if(NOT XLA_FFI_INCLUDE_DIR AND Python_EXECUTABLE)
  # jaxlib alone is enough: the headers lie beside it, and importing jax here would be slow.
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
            "import importlib.util as u, os; print(os.path.join(os.path.dirname(u.find_spec('jaxlib').origin), 'include'))"
    OUTPUT_VARIABLE xla_ffi_guess OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
find_path(XLA_FFI_INCLUDE_DIR xla/ffi/api/ffi.h HINTS ${xla_ffi_guess} NO_DEFAULT_PATH)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(XlaFfi REQUIRED_VARS XLA_FFI_INCLUDE_DIR)
if(XlaFfi_FOUND AND NOT TARGET XlaFfi::headers)
  add_library(XlaFfi::headers INTERFACE IMPORTED)
  set_target_properties(XlaFfi::headers PROPERTIES
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES ${XLA_FFI_INCLUDE_DIR}
    INTERFACE_INCLUDE_DIRECTORIES ${XLA_FFI_INCLUDE_DIR})
endif()
