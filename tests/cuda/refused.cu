// A program that a GPU must refuse at its first call. Prints the error.
#include <cstdio>

#include "first_call.hpp"

int main() { std::printf("%s\n", test::first_call().c_str()); }
