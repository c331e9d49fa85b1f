// Linked with both libraries.
#include "plugin.hpp"

extern "C" {
CacheFunction first_cache, second_cache;
ForwardFunction first_forward, second_forward;
}

int main() { return share_one_cache({first_cache, first_forward}, {second_cache, second_forward}) ? 0 : 1; }
