#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sizes.hpp"

namespace narsil::load {

// What the served model takes: dense columns, and of each feature the rows of its table.
struct Shape {
    std::uint32_t dense;
    std::vector<std::uint32_t> table_rows;
};

// A pool of random rows, made once, that every request is cut from: no request costs the generator its drawing.
//
// Dense values are uniform in [-1, 1), ids uniform over their tables. Constant, so all threads read the same one.
class Inputs {
public:
    // For requests of at most `rows_max` rows.
    Inputs(const Shape& shape, std::uint32_t rows_max, std::uint64_t seed);

    std::size_t dense_width() const { return dense_width_; }
    std::size_t features() const { return features_; }

    // The first of `rows` successive rows, drawn anew.
    std::size_t draw_first(std::uint32_t rows, Random& random) const;

    // float32 [rows from `first`, dense_width()].
    const float* dense(std::size_t first) const { return dense_.data() + first * dense_width_; }

    // int32 [rows from `first`, features()].
    const std::int32_t* ids(std::size_t first) const { return ids_.data() + first * features_; }

private:
    std::size_t dense_width_;
    std::size_t features_;
    std::size_t rows_;
    std::vector<float> dense_;
    std::vector<std::int32_t> ids_;
};

}  // namespace narsil::load
