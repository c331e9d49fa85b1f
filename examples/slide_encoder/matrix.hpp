// What the layers of the encoder pass to each other: rows of numbers, one row for each token.
#pragma once

#include <Eigen/Core>

namespace slide_encoder {

template <class Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Consecutive rows of a matrix.
template <class Scalar>
using Rows = Eigen::Ref<Matrix<Scalar>>;
template <class Scalar>
using ConstRows = Eigen::Ref<const Matrix<Scalar>>;

}  // namespace slide_encoder
