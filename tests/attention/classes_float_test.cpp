// suites: instructions
// unit: random
// Random configurations of every class with float.
#include "support/check_classes.hpp"

TEST_CASE("every class agrees with the oracle, forward and backward: float", "[attention][property]") {
  test::check_classes_of_type<float>(10000);
}
