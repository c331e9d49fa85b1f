// suites: instructions
// unit: random
// Random configurations of every class with Eigen::bfloat16.
#include "support/check_classes.hpp"

TEST_CASE("every class agrees with the oracle, forward and backward: bfloat16", "[attention][property]") {
  test::check_classes_of_type<Eigen::bfloat16>(13000);
}
