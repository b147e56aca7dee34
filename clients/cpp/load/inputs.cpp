#include "inputs.hpp"

#include <algorithm>

namespace narsil::load {
namespace {

// Beyond the last level cache of most servers, so that the reading of inputs costs what it costs a real client.
constexpr std::size_t spare_bytes = std::size_t{32} << 20;

std::size_t spare_rows(const Shape& shape) {
    return std::max<std::size_t>(1, spare_bytes / (4 * (shape.dense + shape.table_rows.size())));
}

}  // namespace

Inputs::Inputs(const Shape& shape, std::uint32_t rows_max, std::uint64_t seed)
    : dense_width_(shape.dense),
      features_(shape.table_rows.size()),
      rows_(rows_max + spare_rows(shape)),
      dense_(rows_ * dense_width_),
      ids_(rows_ * features_) {
    Random random(seed);
    std::uniform_real_distribution<float> value(-1.0F, 1.0F);
    for (float& element : dense_) element = value(random);
    for (std::size_t feature = 0; feature < features_; ++feature) {
        const auto last = static_cast<std::int32_t>(shape.table_rows[feature] - 1);
        std::uniform_int_distribution<std::int32_t> id(0, last);
        for (std::size_t row = 0; row < rows_; ++row) ids_[row * features_ + feature] = id(random);
    }
}

std::size_t Inputs::draw_first(std::uint32_t rows, Random& random) const {
    return std::uniform_int_distribution<std::size_t>(0, rows_ - rows)(random);
}

}  // namespace narsil::load
