// Calls the units with every kernel: their results agree.
#include <cmath>
#include <cstdio>
#include <exception>
#include <ring_attention/ring_attention.hpp>
#include <string>

double plain_unit(const char* kernel);
double native_unit(const char* kernel);
double portable_unit(const char* kernel);

int main(int count, char**) try {
  if (count > 1) {  // with what the environment asks for
    std::printf("portable: %.9g\n", portable_unit(nullptr));
    return 0;
  }
  std::printf("by default: %s\n",
              ring_attention::kernel_for<float>(ring_attention::Direction::forward).c_str());
  const double expected = plain_unit("generic");
  for (const std::string& kernel : ring_attention::available_kernels()) {
    ring_attention::set_kernel(kernel);  // the portable unit has its own, whatever others chose
    const double portable = portable_unit(nullptr);
    for (const double found : {portable, plain_unit(kernel.c_str()), native_unit(kernel.c_str())}) {
      if (!(std::abs(found - expected) <= 1e-3)) {
        std::printf("%s: %.9g in place of %.9g\n", kernel.c_str(), found, expected);
        return 1;
      }
    }
    std::printf("%s agrees in all units\n", kernel.c_str());
  }
} catch (const std::exception& error) {
  std::printf("%s\n", error.what());
  return 1;
}
