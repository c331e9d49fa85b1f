// The comparison itself: what it must refuse.
#include "support/compare.hpp"

#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

test::Comparison compare_one(double actual, double reference, double tolerance = 1e-3) {
  test::Comparison comparison("value", tolerance);
  comparison.add(actual, reference, {1, 2, 3, 4});
  return comparison;
}

}  // namespace

TEST_CASE("comparison: tolerance is absolute below 1 and relative above", "[support]") {
  CHECK(compare_one(0.0, 0.0).passed());
  CHECK(compare_one(0.00099, 0.0).passed());
  CHECK_FALSE(compare_one(0.00101, 0.0).passed());
  CHECK(compare_one(-1000.99, -1000.0).passed());
  CHECK_FALSE(compare_one(-1001.01, -1000.0).passed());
}

TEST_CASE("comparison: a size takes the place of 1 and of smaller references", "[support]") {
  const auto compare_of_size = [](double actual, double reference, double size) {
    test::Comparison comparison("value", 1e-3);
    comparison.add(actual, reference, {}, size);
    return comparison.passed();
  };
  CHECK(compare_of_size(0.0499, 0.0, 50));
  CHECK_FALSE(compare_of_size(0.0501, 0.0, 50));
  CHECK(compare_of_size(100.099, 100.0, 50));
  CHECK_FALSE(compare_of_size(100.101, 100.0, 50));
  CHECK_FALSE(compare_of_size(0.00101, 0.0, 0.5));
  CHECK_FALSE(compare_of_size(not_a_number, 0.0, 50));
  CHECK_FALSE(compare_of_size(0.0, not_a_number, 50));
  CHECK_FALSE(compare_of_size(1.0, 0.0, infinity));
  CHECK_FALSE(compare_of_size(1.0, 0.0, not_a_number));
  CHECK(test::compare_all("list", std::vector<float>{0.04F}, {0}, 1e-3, 50).passed());
  CHECK_FALSE(test::compare_all("list", std::vector<float>{0.06F}, {0}, 1e-3, 50).passed());
}

TEST_CASE("comparison: NaN fails on either side", "[support]") {
  CHECK_FALSE(compare_one(not_a_number, 0.0).passed());
  CHECK_FALSE(compare_one(0.0, not_a_number).passed());
  CHECK_FALSE(compare_one(not_a_number, not_a_number).passed());
  CHECK_FALSE(compare_one(not_a_number, -infinity).passed());
  CHECK_FALSE(compare_one(-infinity, not_a_number).passed());
  CHECK_FALSE(compare_one(0.0, 0.0, not_a_number).passed());
}

TEST_CASE("comparison: an infinity equals itself only", "[support]") {
  CHECK(compare_one(-infinity, -infinity).passed());
  CHECK(compare_one(infinity, infinity).passed());
  CHECK_FALSE(compare_one(infinity, -infinity).passed());
  CHECK_FALSE(compare_one(-1e308, -infinity).passed());
  CHECK_FALSE(compare_one(-infinity, -1e308).passed());
  CHECK_FALSE(compare_one(infinity, 0.0).passed());
}

TEST_CASE("comparison: the message tells position and values of the worst element", "[support]") {
  test::Comparison comparison("out", 0.5);
  comparison.add(1.0F, 1.0, {0, 0, 0, 0});
  comparison.add(9.0F, 1.0, {0, 5, 6, 7});
  comparison.add(3.0F, 1.0, {0, 0, 0, 1});
  CHECK_FALSE(comparison.passed());
  CHECK(comparison.count() == 3);
  CHECK(comparison.worst() == 16.0);
  CHECK(comparison.message() ==
        "out: 2 of 3 elements differ; worst at [0, 5, 6, 7]: 9, expected 1 (16 times the tolerance of 0.5)");
  comparison.add(not_a_number, 1.0, {1, 0, 0, 0});
  comparison.add(infinity, 1.0, {2, 0, 0, 0});
  CHECK(comparison.message().find("worst at [1, 0, 0, 0]: nan") != std::string::npos);
}

TEST_CASE("comparison: missing elements fail", "[support]") {
  CHECK(test::compare_all("list", std::vector<float>{1, 2}, {1, 2}, 1e-3).passed());
  CHECK_FALSE(test::compare_all("list", std::vector<float>{1}, {1, 2}, 1e-3).passed());
  CHECK_FALSE(test::compare_all("list", std::vector<float>{1, 2}, {1}, 1e-3).passed());
}

TEST_CASE("tolerances are those of the contract", "[support]") {
  CHECK(test::tolerance_of<double>().out == 1e-12);
  CHECK(test::tolerance_of<float>().out == 2e-5);
  CHECK(test::tolerance_of<Eigen::half>().out == 4e-3);
  CHECK(test::tolerance_of<Eigen::bfloat16>().out == 2.5e-2);
  CHECK(test::tolerance_of<double>().lse == 1e-12);
  CHECK(test::tolerance_of<Eigen::half>().lse == test::tolerance_of<float>().lse);
  CHECK(test::tolerance_of<Eigen::bfloat16>().lse == 2e-5);
  CHECK(test::tolerance_of<float>(3).gradient == 5 * test::tolerance_of<float>(3).out);
  CHECK(test::output_size<Eigen::bfloat16>(35) == 7);
  CHECK(test::output_size<Eigen::half>(35) == 7);
  CHECK(test::output_size<float>(35) == 0);
  CHECK(test::output_size<double>(35) == 0);
  CHECK(test::gradient_size<Eigen::bfloat16>({2, -35, 7}) == 35);
  CHECK(test::gradient_size<Eigen::half>({2, -35, 7}) == 35);
  CHECK(test::gradient_size<float>({2, -35, 7}) == 0);
  CHECK(test::gradient_size<double>({2, -35, 7}) == 0);
}
