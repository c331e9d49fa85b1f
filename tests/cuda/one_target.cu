// A unit of a program whose other units are compiled for other GPUs; TARGET_CALL is the name of its function.
#include <string>

#include "first_call.hpp"

std::string TARGET_CALL();
std::string TARGET_CALL() { return test::first_call(); }
