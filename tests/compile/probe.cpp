// How fast this machine compiles templates.
#include <Eigen/Dense>

template class Eigen::PartialPivLU<Eigen::MatrixXd>;
