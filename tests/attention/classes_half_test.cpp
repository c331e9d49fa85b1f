// unit: random
// Random configurations of every class with Eigen::half.
#include "support/check_classes.hpp"

TEST_CASE("every class agrees with the oracle, forward and backward: half", "[attention][property]") {
  test::check_classes_of_type<Eigen::half>(12000);
}
