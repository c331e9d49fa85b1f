// unit: random
// Random configurations of every class with double.
#include "support/check_classes.hpp"

TEST_CASE("every class agrees with the oracle, forward and backward: double", "[attention][property]") {
  test::check_classes_of_type<double>(11000);
}
