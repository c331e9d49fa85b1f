// Every class with every scalar, for the flags that programs compile their own code with: the library's
// headers are not taken as a system's here. Compiled, and never linked.
#include "all_headers.inl"

template void every_class::call<float>(const ra::AttentionConfig&);
template void every_class::call<double>(const ra::AttentionConfig&);
template void every_class::call<Eigen::half>(const ra::AttentionConfig&);
template void every_class::call<Eigen::bfloat16>(const ra::AttentionConfig&);
