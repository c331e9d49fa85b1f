# cmake -DSOURCE=... -DSCRATCH=... -DCOMPILER=... -DPREFIX_PATH=... -DGENERATOR=... -DMAKE_PROGRAM=... -P portable.cmake
# A package of a build with RING_ATTENTION_PORTABLE defines it, by CMake's target and by pkg-config; another does not.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE printed ERROR_VARIABLE printed)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${ARGN}: ${status}\n${printed}")
  endif()
endfunction()

file(REMOVE_RECURSE "${SCRATCH}")
foreach(portable ON OFF)
  set(prefix "${SCRATCH}/prefix_${portable}")
  run("${CMAKE_COMMAND}" -S "${SOURCE}" -B "${SCRATCH}/build_${portable}" -G "${GENERATOR}"
      "-DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM}" "-DCMAKE_CXX_COMPILER=${COMPILER}"
      "-DCMAKE_PREFIX_PATH=${PREFIX_PATH}" -DRING_ATTENTION_PORTABLE=${portable} -DRING_ATTENTION_BUILD_TESTS=OFF
      -DRING_ATTENTION_BUILD_BENCHMARKS=OFF -DRING_ATTENTION_BUILD_EXAMPLES=OFF)
  run("${CMAKE_COMMAND}" --install "${SCRATCH}/build_${portable}" --prefix "${prefix}")
  foreach(file pkgconfig/ring_attention.pc cmake/ring_attention/ring_attentionTargets.cmake)
    file(READ "${prefix}/share/${file}" text)
    string(FIND "${text}" "RING_ATTENTION_PORTABLE" place)
    if(portable AND place EQUAL -1)
      message(SEND_ERROR "${file} of a portable build does not define RING_ATTENTION_PORTABLE")
    elseif(NOT portable AND NOT place EQUAL -1)
      message(SEND_ERROR "${file} of a build that is not portable names RING_ATTENTION_PORTABLE")
    endif()
  endforeach()
endforeach()
