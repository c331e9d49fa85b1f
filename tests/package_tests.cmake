# Tests of the installed package and of what compilers say, each with this build's compiler and, where a good enough one
# is installed, with the other of g++ and clang++. They compile while they run: label "package".

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(compiler_names g++ clang++)
  set(other_minimum 14)
else()
  set(compiler_names clang++ g++)
  set(other_minimum 12)
endif()
list(GET compiler_names 0 own_name)
list(GET compiler_names 1 other_name)
find_program(RING_ATTENTION_OTHER_COMPILER "${other_name}")
set(other_version 0)
if(RING_ATTENTION_OTHER_COMPILER)
  execute_process(COMMAND "${RING_ATTENTION_OTHER_COMPILER}" -dumpversion OUTPUT_VARIABLE other_version)
endif()
if(other_version VERSION_LESS other_minimum)
  message(STATUS "No ${other_name} ${other_minimum} or later: the package is tested with one compiler")
  list(REMOVE_AT compiler_names 1)
endif()
set(compilers "${CMAKE_CXX_COMPILER}" "${RING_ATTENTION_OTHER_COMPILER}")

option(RING_ATTENTION_TEST_VARIANTS "Test also what other compilers hardly change" ON)

set(scratch "${CMAKE_CURRENT_BINARY_DIR}/package")
set(prefix "${scratch}/prefix")
file(REMOVE_RECURSE "${prefix}")  # a header that was deleted must not live on there

# Configures and builds a project with a compiler; what follows the three arguments goes to ctest. Without optimisation
# and debug information: that takes a third of the time, and leaves more functions for the linker to merge.
function(add_project_test name source compiler)
  cmake_parse_arguments(PARSE_ARGV 3 arg "" "" "OPTIONS;RUN")
  add_test(NAME "${name}"
           COMMAND "${CMAKE_CTEST_COMMAND}" --build-and-test "${source}" "${scratch}/${name}"
                   --build-generator "${CMAKE_GENERATOR}" --build-makeprogram "${CMAKE_MAKE_PROGRAM}"
                   --build-options "-DCMAKE_CXX_COMPILER=${compiler}" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=
                                   "-DCMAKE_PREFIX_PATH=${prefix}" ${arg_OPTIONS}
                   ${arg_RUN})
  set_tests_properties("${name}" PROPERTIES LABELS package TIMEOUT 300)
endfunction()

# Code for GPUs is compiled where nvcc is; what runs it says so if there is no GPU.
find_program(RING_ATTENTION_NVCC nvcc PATHS /usr/local/cuda/bin)
set(cuda_compiled "")
if(RING_ATTENTION_NVCC)
  set(cuda_compiled -DRING_ATTENTION_BUILD_CUDA_COMPILED=ON "-DCMAKE_CUDA_COMPILER=${RING_ATTENTION_NVCC}")
else()
  message(STATUS "nvcc was not found: calls on GPUs are neither compiled nor tested")
endif()

add_project_test(package.install "${PROJECT_SOURCE_DIR}" "${CMAKE_CXX_COMPILER}"
                 OPTIONS "-DCMAKE_INSTALL_PREFIX=${prefix}" -DRING_ATTENTION_BUILD_TESTS=OFF
                         -DRING_ATTENTION_BUILD_COMPILED=ON ${cuda_compiled}
                         -DRING_ATTENTION_BUILD_BENCHMARKS=OFF -DRING_ATTENTION_BUILD_EXAMPLES=OFF
                 RUN --build-target install)
set_tests_properties(package.install PROPERTIES FIXTURES_SETUP installed)

# What FetchContent fetches: a tag of a repository, or, where there is no git, the source tree.
find_package(Git QUIET)
if(GIT_FOUND)
  set(fetched_from "-DADDRESS=file://${scratch}/repository" "-DTAG=v${PROJECT_VERSION}")
  add_test(NAME package.repository
           COMMAND "${CMAKE_COMMAND}" "-DGIT=${GIT_EXECUTABLE}" "-DSOURCE=${PROJECT_SOURCE_DIR}"
                   "-DREPOSITORY=${scratch}/repository" "-DTAG=v${PROJECT_VERSION}"
                   -P "${CMAKE_CURRENT_LIST_DIR}/make_repository.cmake")
  set_tests_properties(package.repository PROPERTIES LABELS package FIXTURES_SETUP installed)
else()
  set(fetched_from "-DFETCHCONTENT_SOURCE_DIR_RING_ATTENTION=${PROJECT_SOURCE_DIR}")
endif()

foreach(compiler compiler_name IN ZIP_LISTS compilers compiler_names)
  if(NOT compiler_name)
    continue()
  endif()

  foreach(origin package subdirectory fetched)
    # How CMake comes to the library does not depend on the compiler, and the suite of the other compiler shows its
    # warnings.
    if(NOT compiler_name STREQUAL own_name AND NOT (origin STREQUAL "package" AND RING_ATTENTION_TEST_VARIANTS))
      continue()
    endif()
    set(name "package.consumer.${origin}.${compiler_name}")
    add_project_test("${name}" "${CMAKE_CURRENT_LIST_DIR}/consumer" "${compiler}"
                     OPTIONS "-DORIGIN=${origin}" "-DLIBRARY_SOURCE=${PROJECT_SOURCE_DIR}"
                             ${fetched_from}
                     RUN --test-command "${scratch}/${name}/consumer")
    set_tests_properties("${name}" PROPERTIES FIXTURES_REQUIRED installed)
  endforeach()

  set(name "package.consumer.compiled.${compiler_name}")
  add_project_test("${name}" "${CMAKE_CURRENT_LIST_DIR}/consumer" "${compiler}" OPTIONS -DCOMPONENT=compiled
                   RUN --test-command "${scratch}/${name}/consumer")
  set_tests_properties("${name}" PROPERTIES FIXTURES_REQUIRED installed)

  set(name "package.shared_library.${compiler_name}")
  add_project_test("${name}" "${CMAKE_CURRENT_LIST_DIR}/shared_library" "${compiler}"
                   RUN --test-command "${CMAKE_CTEST_COMMAND}" --output-on-failure)
  set_tests_properties("${name}" PROPERTIES FIXTURES_REQUIRED installed FIXTURES_SETUP "shared_libraries")
  list(APPEND shared_libraries "${scratch}/${name}")

  # With an EPYC whose speed varied the probe took 4.7 to 6.5 s and the unit 6.9 to 10.8 s with either compiler, at most
  # twice the probe's. Beside the compiled library a unit reads declarations alone: 2.3 to 2.8 s, where the probe took
  # 7.5 to 9.4.
  set(name "compile.unit_within_10_s_and_declarations_2_s.${compiler_name}")
  add_test(NAME "${name}"
           COMMAND bash "${CMAKE_CURRENT_LIST_DIR}/compile/compile_time.sh" 10 2 4.5
                   "${CMAKE_CURRENT_LIST_DIR}/compile/probe.cpp" "${CMAKE_CURRENT_LIST_DIR}/compile/one_unit.cpp"
                   "${compiler}" -std=c++20 -O2
                   "-I$<JOIN:$<TARGET_PROPERTY:ring_attention,INTERFACE_INCLUDE_DIRECTORIES>,;-I>"
                   "-I$<JOIN:$<TARGET_PROPERTY:Eigen3::Eigen,INTERFACE_INCLUDE_DIRECTORIES>,;-I>"
           COMMAND_EXPAND_LISTS)
  set_tests_properties("${name}" PROPERTIES LABELS package)
endforeach()

# Which copy of a function programs share follows from its name, which no compiler chooses: one compiler is enough,
# unless all is tested. Without optimisation nothing is inlined, so that every function that two units could share is
# there to be found.
get_target_property(eigen_includes Eigen3::Eigen INTERFACE_INCLUDE_DIRECTORIES)
list(TRANSFORM eigen_includes PREPEND "-isystem" OUTPUT_VARIABLE eigen_flags)
foreach(compiler compiler_name IN ZIP_LISTS compilers compiler_names)
  if(compiler_name STREQUAL own_name OR (compiler_name AND RING_ATTENTION_TEST_VARIANTS))
    add_test(NAME "kernel.mixed_units.${compiler_name}"
             COMMAND bash "${CMAKE_CURRENT_LIST_DIR}/mixed_units/check.sh" "${CMAKE_CURRENT_LIST_DIR}/mixed_units"
                     "${scratch}/mixed_units.${compiler_name}" "${compiler}" -std=c++20 -O0
                     "-I${PROJECT_SOURCE_DIR}/include" ${eigen_flags} -pthread)
    set_tests_properties("kernel.mixed_units.${compiler_name}" PROPERTIES LABELS package TIMEOUT 300)
  endif()
endforeach()

include("${CMAKE_CURRENT_LIST_DIR}/compile/compile_tests.cmake")

list(LENGTH shared_libraries folders)
if(folders EQUAL 2)
  list(GET shared_libraries 0 first)
  list(GET shared_libraries 1 second)
  add_test(NAME package.shared_library.mixed COMMAND "${first}/loaded" "${first}" "${second}")
  set_tests_properties(package.shared_library.mixed PROPERTIES LABELS package FIXTURES_REQUIRED shared_libraries)
endif()

if(MPI_CXX_FOUND)
  foreach(origin package subdirectory)
    set(name "package.mpi_consumer.${origin}")
    add_project_test("${name}" "${CMAKE_CURRENT_LIST_DIR}/mpi_consumer" "${CMAKE_CXX_COMPILER}"
                     OPTIONS "-DORIGIN=${origin}" "-DLIBRARY_SOURCE=${PROJECT_SOURCE_DIR}"
                     RUN --test-command "${MPIEXEC_EXECUTABLE}" ${MPIEXEC_NUMPROC_FLAG} 3
                                        "${scratch}/${name}/mpi_consumer")
    set_tests_properties("${name}" PROPERTIES FIXTURES_REQUIRED installed ENVIRONMENT "${mpi_environment}")
  endforeach()
endif()

set(cuda_root "")
if(RING_ATTENTION_NVCC)
  cmake_path(GET RING_ATTENTION_NVCC PARENT_PATH cuda_root)
  cmake_path(GET cuda_root PARENT_PATH cuda_root)
endif()
# The shared library of examples/python, with calls on GPUs where nvcc is, called from C.
add_project_test(package.c_interface "${CMAKE_CURRENT_LIST_DIR}/c_interface" "${CMAKE_CXX_COMPILER}"
                 OPTIONS "-DCUDAToolkit_ROOT=${cuda_root}" "-DWARNINGS_ARE_ERRORS=${RING_ATTENTION_WERROR}"
                 RUN --test-command "${scratch}/package.c_interface/c_program")
set_tests_properties(package.c_interface PROPERTIES FIXTURES_REQUIRED installed FIXTURES_SETUP c_interface)
if(Python3_FOUND)
  add_test(NAME package.c_interface_from_python
           COMMAND "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/c_interface/c_library_test.py"
                   "${PROJECT_SOURCE_DIR}"
                   "${scratch}/package.c_interface/ring_attention_c/libring_attention_c${CMAKE_SHARED_LIBRARY_SUFFIX}")
  set_tests_properties(package.c_interface_from_python PROPERTIES LABELS package FIXTURES_REQUIRED c_interface)
endif()
if(RING_ATTENTION_NVCC)
  # With the compiled library, and units that nvcc compiles, for one architecture: they take their time.
  add_project_test(package.gpu_checks "${CMAKE_CURRENT_LIST_DIR}/cuda" "${CMAKE_CXX_COMPILER}"
                   OPTIONS "-DCUDAToolkit_ROOT=${cuda_root}" "-DWARNINGS_ARE_ERRORS=${RING_ATTENTION_WERROR}"
                           "-DCMAKE_CUDA_COMPILER=${RING_ATTENTION_NVCC}" -DCMAKE_CUDA_ARCHITECTURES=80
                   RUN --test-command "${scratch}/package.gpu_checks/gpu_checks")
  add_project_test(package.cuda_consumer "${CMAKE_CURRENT_LIST_DIR}/cuda_consumer" "${CMAKE_CXX_COMPILER}"
                   OPTIONS "-DCMAKE_CUDA_COMPILER=${RING_ATTENTION_NVCC}" -DCMAKE_CUDA_ARCHITECTURES=80
                           "-DONE_UNIT=$<NOT:$<BOOL:${RING_ATTENTION_TEST_VARIANTS}>>"
                   RUN --test-command "${scratch}/package.cuda_consumer/cuda_consumer")
  find_program(RING_ATTENTION_CUOBJDUMP cuobjdump HINTS "${cuda_root}/bin")
  add_test(NAME package.gpu_instructions
           COMMAND bash "${CMAKE_CURRENT_LIST_DIR}/cuda/instructions.sh" "${RING_ATTENTION_CUOBJDUMP}"
                   "${prefix}")
  set_tests_properties(package.gpu_instructions PROPERTIES LABELS package SKIP_REGULAR_EXPRESSION "^skipped: ")
  set_tests_properties(package.gpu_checks package.cuda_consumer package.gpu_instructions
                       PROPERTIES FIXTURES_REQUIRED installed)
endif()

# As on a machine without MPI.
add_test(NAME package.names_what_mpi_needs
         COMMAND "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/mpi_consumer" -B "${scratch}/without_mpi"
                 -G "${CMAKE_GENERATOR}" "-DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM}"
                 "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}" "-DCMAKE_PREFIX_PATH=${prefix}"
                 -DCMAKE_DISABLE_FIND_PACKAGE_MPI=ON)
set_tests_properties(package.names_what_mpi_needs PROPERTIES
                     LABELS package FIXTURES_REQUIRED installed
                     PASS_REGULAR_EXPRESSION "apt-get[ \n]+install[ \n]+libopenmpi-dev[ \n]+openmpi-bin")

add_test(NAME package.versions_and_components
         COMMAND "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/find_package" -B "${scratch}/find_package"
                 -G "${CMAKE_GENERATOR}" "-DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM}"
                 "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}" "-DCMAKE_PREFIX_PATH=${prefix}"
                 "-DVERSION=${PROJECT_VERSION}")
set_tests_properties(package.versions_and_components PROPERTIES LABELS package FIXTURES_REQUIRED installed)

# As builds without CMake use the library.
set(with_mpi "")
if(MPI_CXX_FOUND)
  set(with_mpi "${CMAKE_CURRENT_LIST_DIR}/mpi_consumer/small.cpp" "${MPI_CXX_COMPILER}" "${MPIEXEC_EXECUTABLE}"
               ${MPIEXEC_NUMPROC_FLAG})
endif()
add_test(NAME package.pkg_config
         COMMAND bash "${CMAKE_CURRENT_LIST_DIR}/pkg_config/check.sh" "${prefix}" "${PROJECT_VERSION}"
                 "${PROJECT_SOURCE_DIR}/docs/packaging/conan/test_package/main.cpp" "${scratch}/pkg_config"
                 "${CMAKE_CXX_COMPILER}" ${with_mpi})
set_tests_properties(package.pkg_config PROPERTIES LABELS package TIMEOUT 600 FIXTURES_REQUIRED installed
                     ENVIRONMENT "${mpi_environment}" SKIP_REGULAR_EXPRESSION "^skipped: ")

# A build without kernels for named instruction sets says so to all who use its package.
add_test(NAME package.portable
         COMMAND "${CMAKE_COMMAND}" "-DSOURCE=${PROJECT_SOURCE_DIR}" "-DSCRATCH=${scratch}/portable"
                 "-DCOMPILER=${CMAKE_CXX_COMPILER}" "-DPREFIX_PATH=${CMAKE_PREFIX_PATH}"
                 "-DGENERATOR=${CMAKE_GENERATOR}" "-DMAKE_PROGRAM=${CMAKE_MAKE_PROGRAM}"
                 -P "${CMAKE_CURRENT_LIST_DIR}/packaging/portable.cmake")
set_tests_properties(package.portable PROPERTIES LABELS package)

# Recipes of package managers.
add_test(NAME package.versions
         COMMAND "${CMAKE_COMMAND}" "-DSOURCE=${PROJECT_SOURCE_DIR}" "-DVERSION=${PROJECT_VERSION}"
                 "-DPKG_CONFIG_FILE=${prefix}/share/pkgconfig/ring_attention.pc"
                 -P "${CMAKE_CURRENT_LIST_DIR}/packaging/versions.cmake")
set_tests_properties(package.versions PROPERTIES LABELS package FIXTURES_REQUIRED installed)
add_test(NAME package.vcpkg_port
         COMMAND "${CMAKE_COMMAND}" "-DSOURCE=${PROJECT_SOURCE_DIR}" "-DSCRATCH=${scratch}/vcpkg_port"
                 "-DCOMPILER=${CMAKE_CXX_COMPILER}" "-DPREFIX_PATH=${CMAKE_PREFIX_PATH}"
                 "-DGENERATOR=${CMAKE_GENERATOR}" "-DMAKE_PROGRAM=${CMAKE_MAKE_PROGRAM}"
                 -P "${CMAKE_CURRENT_LIST_DIR}/packaging/vcpkg_port.cmake")
set_tests_properties(package.vcpkg_port PROPERTIES LABELS package FIXTURES_SETUP vcpkg_port)
add_test(NAME package.vcpkg_port_found
         COMMAND "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/find_package" -B "${scratch}/find_vcpkg_port"
                 -G "${CMAKE_GENERATOR}" "-DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM}"
                 "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}" "-DCMAKE_PREFIX_PATH=${scratch}/vcpkg_port/packages"
                 "-DVERSION=${PROJECT_VERSION}")
set_tests_properties(package.vcpkg_port_found PROPERTIES LABELS package FIXTURES_REQUIRED vcpkg_port)

add_test(NAME docs.reference
         COMMAND bash "${CMAKE_CURRENT_LIST_DIR}/docs/reference_test.sh" "${DOXYGEN_EXECUTABLE}"
                 "${PROJECT_BINARY_DIR}/reference/Doxyfile")
set_tests_properties(docs.reference PROPERTIES LABELS package SKIP_REGULAR_EXPRESSION "^skipped: ")

add_test(NAME package.refuses_another_version
         COMMAND "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/consumer" -B "${scratch}/another_version"
                 -G "${CMAKE_GENERATOR}" "-DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM}"
                 "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}" "-DCMAKE_PREFIX_PATH=${prefix}" -DVERSION=9.0)
set_tests_properties(package.refuses_another_version PROPERTIES
                     LABELS package FIXTURES_REQUIRED installed
                     PASS_REGULAR_EXPRESSION "compatible[ \n]+with[ \n]+requested[ \n]+version[ \n]+\"9.0\"")
