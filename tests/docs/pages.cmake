# Tests of README.md and of the pages below docs/. What package_tests.cmake sets is used: where the library is installed,
# scratch folders and flags.

# CMake takes make unless it is told, even where there is only ninja.
set(same_generator "CMAKE_GENERATOR=${CMAKE_GENERATOR}")

# Every code block of the pages. What was compiled for the tests is not compiled again.
find_package(Python3 3.10 QUIET COMPONENTS Interpreter)
if(Python3_FOUND AND RING_ATTENTION_BUILD_EXAMPLES)
  list(JOIN eigen_flags " " eigen_words)
  if(MPI_CXX_FOUND)
    list(TRANSFORM MPI_CXX_INCLUDE_DIRS PREPEND "-isystem" OUTPUT_VARIABLE mpi_words)
    set(mpi_words -DOMPI_SKIP_MPICXX -DMPICH_SKIP_MPICXX ${MPI_CXX_COMPILE_OPTIONS} ${mpi_words} ${MPI_CXX_LIBRARIES})
    list(JOIN mpi_words " " mpi_words)
  endif()
  add_test(NAME docs.pages
           COMMAND "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/check_pages.py"
                   --source "${PROJECT_SOURCE_DIR}" --scratch "${scratch}/docs" --build "${PROJECT_BINARY_DIR}"
                   --prefix "${prefix}" --cmake "${CMAKE_COMMAND}" "--mpi-flags=${mpi_words}"
                   "--compiler=${CMAKE_CXX_COMPILER} ${CMAKE_CXX_FLAGS} -std=c++20 -O0 -I${PROJECT_SOURCE_DIR}/include ${eigen_words} -pthread"
                   --link "$<FILTER:$<TARGET_OBJECTS:ring_attention_test_engine>,INCLUDE,_engine\\.cpp>"
           COMMAND_EXPAND_LISTS)
  set_tests_properties(docs.pages PROPERTIES LABELS package TIMEOUT 600 FIXTURES_REQUIRED installed
                                             ENVIRONMENT "${mpi_environment};${same_generator}")
  add_test(NAME docs.no_fence_escapes
           COMMAND "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/check_pages_test.py"
                   --scratch "${scratch}/docs_test" "--compiler=${CMAKE_CXX_COMPILER} -std=c++20")
  set_tests_properties(docs.no_fence_escapes PROPERTIES LABELS package ENVIRONMENT "${same_generator}")

  # The first Python may lack the system's matplotlib.
  execute_process(COMMAND "${Python3_EXECUTABLE}" -c "import matplotlib" RESULT_VARIABLE status ERROR_QUIET)
  set(figures_python "${Python3_EXECUTABLE}")
  if(NOT status EQUAL 0 AND EXISTS /usr/bin/python3)
    set(figures_python /usr/bin/python3)
  endif()
  add_test(NAME docs.figures COMMAND "${figures_python}" "${PROJECT_SOURCE_DIR}/docs/figures/make_figures.py"
                                     --check "${scratch}/figures")
  set_tests_properties(docs.figures PROPERTIES SKIP_REGULAR_EXPRESSION "^skipped: ")
else()
  message(STATUS "The pages of docs are not tested: that needs Python 3.10 and RING_ATTENTION_BUILD_EXAMPLES")
endif()
