# What other programs' macros, flags, compilers and processors make of the headers. Included by package_tests.cmake.
# tests/compile/every_compiler tries more of them.

get_target_property(json_includes nlohmann_json::nlohmann_json INTERFACE_INCLUDE_DIRECTORIES)
list(TRANSFORM json_includes PREPEND "-isystem" OUTPUT_VARIABLE json_flags)
list(FILTER json_flags EXCLUDE REGEX "^-isystem/usr/include/?$")  # a compiler would no longer find its own headers
set(check_flags "-I${PROJECT_SOURCE_DIR}/include" "-I${PROJECT_SOURCE_DIR}/tests" ${eigen_flags} ${json_flags})
set(mpi_check_flags -DRING_ATTENTION_CHECK_WITHOUT_MPI)
if(MPI_CXX_FOUND)
  list(TRANSFORM MPI_CXX_INCLUDE_DIRS PREPEND "-isystem" OUTPUT_VARIABLE mpi_check_flags)
  list(APPEND mpi_check_flags -DOMPI_SKIP_MPICXX -DMPICH_SKIP_MPICXX)
endif()

foreach(compiler compiler_name IN ZIP_LISTS compilers compiler_names)
  if(NOT compiler_name)
    continue()
  endif()
  add_test(NAME "compile.refuses.${compiler_name}"
           COMMAND bash "${CMAKE_CURRENT_LIST_DIR}/refuses.sh" "${PROJECT_SOURCE_DIR}/include" "${compiler}")
  # One unit for macros and for flags that change the language.
  add_test(NAME "compile.macros.${compiler_name}"
           COMMAND "${compiler}" -std=gnu++2b -fno-rtti -fsyntax-only ${check_flags} ${mpi_check_flags}
                   "${CMAKE_CURRENT_LIST_DIR}/macros.cpp")
  set_tests_properties("compile.refuses.${compiler_name}" "compile.macros.${compiler_name}"
                       PROPERTIES LABELS package)
endforeach()

# Host code alone: no GPU is needed. Of two scalars package.cuda_consumer has it.
if(RING_ATTENTION_TEST_VARIANTS)
  add_test(NAME compile.cuda_unit
           COMMAND bash "${CMAKE_CURRENT_LIST_DIR}/cuda_unit.sh" "${RING_ATTENTION_NVCC}"
                   "${CMAKE_CURRENT_LIST_DIR}/four_scalars.cpp" "${scratch}/cuda_unit" ${check_flags})
  set_tests_properties(compile.cuda_unit PROPERTIES LABELS package TIMEOUT 300 SKIP_REGULAR_EXPRESSION "^skipped: ")
endif()
# Plans are data that any backend reads: no Eigen, which is not found here.
add_test(NAME compile.plan_alone
         COMMAND bash "${CMAKE_CURRENT_LIST_DIR}/plan_alone.sh" "${PROJECT_SOURCE_DIR}/include" "${scratch}/plan_alone"
                 "${CMAKE_CXX_COMPILER}" "${RING_ATTENTION_NVCC}")
set_tests_properties(compile.plan_alone PROPERTIES LABELS package)
find_program(RING_ATTENTION_AARCH64_COMPILER aarch64-linux-gnu-g++)
find_program(RING_ATTENTION_AARCH64_EMULATOR NAMES qemu-aarch64-static qemu-aarch64)
add_test(NAME compile.aarch64
         COMMAND bash "${CMAKE_CURRENT_LIST_DIR}/emulated.sh" "${RING_ATTENTION_AARCH64_COMPILER}"
                 "${RING_ATTENTION_AARCH64_EMULATOR}" "${PROJECT_SOURCE_DIR}" "${scratch}/aarch64" ${check_flags})
set_tests_properties(compile.aarch64 PROPERTIES LABELS package TIMEOUT 300 SKIP_REGULAR_EXPRESSION "^skipped: ")
