# Target `docs`: the reference of the public headers by Doxygen, where it is installed. A symbol without a description
# is an error.
find_package(Doxygen 1.9.4 QUIET)
if(TARGET Doxygen::doxygen)
  configure_file(docs/doxygen/Doxyfile.in Doxyfile @ONLY)
  add_custom_target(docs COMMAND Doxygen::doxygen ${PROJECT_BINARY_DIR}/Doxyfile
                    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} VERBATIM)
endif()
