# An overlay port of the source tree that it lies in.
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../../.." ABSOLUTE)
set(VCPKG_BUILD_TYPE release)  # headers are the same for every configuration

vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    -DRING_ATTENTION_BUILD_TESTS=OFF
    -DRING_ATTENTION_BUILD_BENCHMARKS=OFF
    -DRING_ATTENTION_BUILD_EXAMPLES=OFF
    -DRING_ATTENTION_INSTALL=ON
    -DCMAKE_DISABLE_FIND_PACKAGE_MPI=ON
    -DCMAKE_DISABLE_FIND_PACKAGE_Doxygen=ON)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(PACKAGE_NAME ring_attention CONFIG_PATH share/cmake/ring_attention)
vcpkg_fixup_pkgconfig()

file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
