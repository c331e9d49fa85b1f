// Each unit of a program launches the kernels that it was compiled with, whichever functions the linker
// keeps.
#include <cstdio>
#include <string>

std::string call_for_this_gpu();
std::string call_for_another_gpu();

int main() {
  std::printf("this GPU: %s\n", call_for_this_gpu().c_str());
  std::printf("another GPU: %s\n", call_for_another_gpu().c_str());
}
