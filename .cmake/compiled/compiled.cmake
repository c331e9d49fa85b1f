# ring_attention::compiled: the engine once, as a static library, for projects with many units that use it. Units that
# link it read declarations alone, whatever their flags.
add_library(ring_attention_compiled STATIC)
add_library(ring_attention::compiled ALIAS ring_attention_compiled)
foreach(scalar float double Eigen::half Eigen::bfloat16)
  string(REPLACE "Eigen::" "" name "${scalar}")
  configure_file("${CMAKE_CURRENT_LIST_DIR}/engine.cpp.in" "${PROJECT_BINARY_DIR}/compiled/${name}.cpp" @ONLY)
  target_sources(ring_attention_compiled PRIVATE "${PROJECT_BINARY_DIR}/compiled/${name}.cpp")
endforeach()
target_include_directories(ring_attention_compiled PRIVATE "${CMAKE_CURRENT_LIST_DIR}")
target_compile_definitions(ring_attention_compiled PUBLIC RING_ATTENTION_COMPILED PRIVATE RING_ATTENTION_COMPILING)
target_link_libraries(ring_attention_compiled PUBLIC ring_attention)
set_target_properties(ring_attention_compiled PROPERTIES EXPORT_NAME compiled POSITION_INDEPENDENT_CODE ON)

if(RING_ATTENTION_INSTALL)
  install(TARGETS ring_attention_compiled EXPORT ring_attention_compiled ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(EXPORT ring_attention_compiled NAMESPACE ring_attention:: FILE ring_attentionCompiledTargets.cmake
          DESTINATION "${package_folder}")
endif()
