// Loads libfirst.so from one folder and libsecond.so from another, each with its symbols kept local. With
// HOST_USES_LIBRARY the program itself uses the cache too, before either library does.
#include <dlfcn.h>

#include <string>

#include "plugin.hpp"

#ifdef HOST_USES_LIBRARY
#include <ring_attention/ring_attention.hpp>
#endif

namespace {

template <class Function>
Function* find(void* library, const std::string& name) {
  void* const symbol = dlsym(library, name.c_str());
  if (symbol == nullptr) std::fprintf(stderr, "%s\n", dlerror());
  return reinterpret_cast<Function*>(symbol);
}

Plugin load(const std::string& folder, const std::string& name) {
  void* const library = dlopen((folder + "/lib" + name + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return {};
  }
  return {find<CacheFunction>(library, name + "_cache"), find<ForwardFunction>(library, name + "_forward")};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s FOLDER_OF_FIRST FOLDER_OF_SECOND\n", argv[0]);
    return 2;
  }
#ifdef HOST_USES_LIBRARY
  const void* const own = &ring_attention::get_global_pattern_cache();
#endif
  const Plugin first = load(argv[1], "first");
  const Plugin second = load(argv[2], "second");
  if (!first.cache || !first.forward || !second.cache || !second.forward) return 2;
#ifdef HOST_USES_LIBRARY
  if (first.cache() != own) {
    std::fprintf(stderr, "two caches: the program's %p and the library's %p\n", own, first.cache());
    return 1;
  }
#endif
  return share_one_cache(first, second) ? 0 : 1;
}
