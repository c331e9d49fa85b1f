# ring_attention::cuda_compiled: calls on GPUs once, as a static library, for units that g++ or clang++ compiles. Brings
# ring_attention::compiled, so that all units share their code, whatever their flags.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80 90a-real)  # newer ones compile what 80 carries when they first run it
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
add_library(ring_attention_cuda_compiled STATIC "${CMAKE_CURRENT_LIST_DIR}/calls.cu")
add_library(ring_attention::cuda_compiled ALIAS ring_attention_cuda_compiled)
target_compile_definitions(ring_attention_cuda_compiled PUBLIC RING_ATTENTION_CUDA_COMPILED
                           PRIVATE RING_ATTENTION_CUDA_COMPILING)
if(RING_ATTENTION_WERROR)
  target_compile_options(ring_attention_cuda_compiled PRIVATE "SHELL:-Werror all-warnings")
endif()
target_link_libraries(ring_attention_cuda_compiled PUBLIC ring_attention_compiled CUDA::cudart_static
                      PRIVATE "$<BUILD_INTERFACE:ring_attention_cuda>")
set_target_properties(ring_attention_cuda_compiled PROPERTIES EXPORT_NAME cuda_compiled POSITION_INDEPENDENT_CODE ON)

if(RING_ATTENTION_INSTALL)
  install(TARGETS ring_attention_cuda_compiled EXPORT ring_attention_cuda_compiled
          ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(EXPORT ring_attention_cuda_compiled NAMESPACE ring_attention::
          FILE ring_attentionCudaCompiledTargets.cmake DESTINATION "${package_folder}")
endif()
