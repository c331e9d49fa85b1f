// Which kernel a test uses.
#pragma once

#include <ring_attention/kernel/dispatch.hpp>
#include <string>

namespace test {

/// Uses a kernel for the length of its scope, then the best one again.
class KernelScope {
 public:
  explicit KernelScope(const std::string& name) { ring_attention::set_kernel(name); }
  KernelScope(const KernelScope&) = delete;
  KernelScope& operator=(const KernelScope&) = delete;
  ~KernelScope() { ring_attention::set_kernel(""); }
};

}  // namespace test
