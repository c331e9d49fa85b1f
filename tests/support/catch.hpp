// Catch2 of either major version: version 2 has one header, version 3 one for each subject.
#pragma once

#if __has_include(<catch2/catch_test_macros.hpp>)
#include <catch2/catch_approx.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
// As in version 2, where it can be named without its namespace.
using Catch::Approx;
#elif __has_include(<catch2/catch.hpp>)
#include <catch2/catch.hpp>
#else
#error "The tests need Catch2 2.13 or later, or 3 (Debian and Ubuntu: apt-get install catch2)"
#endif
