# cmake -DSOURCE=... -DVERSION=... -DPKG_CONFIG_FILE=... -P versions.cmake: whatever states a version states that of
# version.hpp. VERSION is what CMake's project() was given, PKG_CONFIG_FILE the generated file.
function(expect_version where found)
  if(NOT found STREQUAL expected)
    message(SEND_ERROR "${where} says ${found}, version.hpp says ${expected}")
  endif()
endfunction()

# The preprocessor's view of the header would need a compiler; its three lines are plain.
file(READ "${SOURCE}/include/ring_attention/version.hpp" header)
foreach(part MAJOR MINOR PATCH)
  if(NOT header MATCHES "\n#define RING_ATTENTION_VERSION_${part} ([0-9]+)\n")
    message(FATAL_ERROR "version.hpp does not define RING_ATTENTION_VERSION_${part}")
  endif()
  list(APPEND numbers "${CMAKE_MATCH_1}")
endforeach()
list(JOIN numbers "." expected)
list(GET numbers 0 major)
list(GET numbers 1 minor)

expect_version("CMake's project()" "${VERSION}")

file(STRINGS "${PKG_CONFIG_FILE}" line REGEX "^Version: ")
string(REPLACE "Version: " "" line "${line}")
expect_version("ring_attention.pc" "${line}")

file(READ "${SOURCE}/docs/packaging/vcpkg/ring-attention/vcpkg.json" manifest)
string(JSON vcpkg_version GET "${manifest}" version-semver)
expect_version(vcpkg.json "${vcpkg_version}")

# The recipe reads version.hpp; a literal would be a second place.
file(READ "${SOURCE}/docs/packaging/conan/conanfile.py" recipe)
if(recipe MATCHES "version = \"[0-9]" OR NOT recipe MATCHES "\"version\\.hpp\"")
  message(SEND_ERROR "conanfile.py states a version of its own")
endif()

file(STRINGS "${SOURCE}/docs/packaging/README.md" tag REGEX "GIT_TAG v")
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" tag "${tag}")
expect_version("the tag in docs/packaging/README.md" "${tag}")

# Names that the linker sees.
if(NOT header MATCHES "#define RING_ATTENTION_NAMESPACE v${major}_${minor}\n")
  message(SEND_ERROR "RING_ATTENTION_NAMESPACE is not v${major}_${minor}")
endif()
string(REGEX MATCHALL "#define RING_ATTENTION_CODE_FOR\\(INSTRUCTIONS\\) [^\n]*" definitions "${header}")
list(LENGTH definitions count)
list(FILTER definitions INCLUDE REGEX " v${major}_${minor}_((portable_)?##INSTRUCTIONS|compiled)$")
list(REMOVE_DUPLICATES definitions)
list(LENGTH definitions right)
if(NOT count EQUAL 3 OR NOT right EQUAL 3)
  message(SEND_ERROR "RING_ATTENTION_CODE_FOR does not begin with v${major}_${minor}_, portable, compiled or neither")
endif()
file(READ "${SOURCE}/include/ring_attention/pattern/global_cache.hpp" cache)
if(NOT cache MATCHES "#define RING_ATTENTION_CACHE_SLOT \"ring_attention_v${major}_${minor}_global_pattern_cache\"\n")
  message(SEND_ERROR "RING_ATTENTION_CACHE_SLOT does not name v${major}_${minor}")
endif()

if(EXISTS "${SOURCE}/docs/CHANGELOG.md")
  file(STRINGS "${SOURCE}/docs/CHANGELOG.md" entries REGEX "^## \\[?[0-9]")
  list(GET entries 0 newest)
  string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" newest "${newest}")
  expect_version("the newest entry of CHANGELOG.md" "${newest}")
endif()
