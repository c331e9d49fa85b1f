# The target `reference`: the API reference as HTML in reference/html of the build folder.

find_package(Doxygen QUIET)
set(reference_folder "${PROJECT_BINARY_DIR}/reference")
if(DOXYGEN_FOUND AND NOT DOXYGEN_VERSION VERSION_LESS 1.9.1)
  configure_file("${CMAKE_CURRENT_LIST_DIR}/Doxyfile.in" "${reference_folder}/Doxyfile" @ONLY)
  add_custom_target(reference COMMAND "${DOXYGEN_EXECUTABLE}" "${reference_folder}/Doxyfile"
                    COMMAND "${CMAKE_COMMAND}" -E echo "${reference_folder}/html/index.html" VERBATIM)
else()
  add_custom_target(reference COMMAND "${CMAKE_COMMAND}" -E echo "The API reference needs doxygen 1.9.1 or later \
(Debian and Ubuntu: apt-get install doxygen); then run cmake again." COMMAND "${CMAKE_COMMAND}" -E false VERBATIM)
endif()
