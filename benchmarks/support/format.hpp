// Figures as people read them.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>

namespace benchmarks {

inline std::string format_number(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

inline std::string format_seconds(double seconds) {
  if (seconds < 1e-6) return format_number(seconds * 1e9, "%.1f ns");
  if (seconds < 1e-3) return format_number(seconds * 1e6, "%.2f us");
  if (seconds < 1.0) return format_number(seconds * 1e3, "%.2f ms");
  return format_number(seconds, "%.3f s");
}

inline std::string format_bytes(double bytes) {
  if (std::isnan(bytes)) return "unknown";
  if (bytes < 1024.0 * 1024.0) return format_number(bytes / 1024.0, "%.1f KiB");
  return format_number(bytes / (1024.0 * 1024.0), "%.2f MiB");
}

}  // namespace benchmarks
