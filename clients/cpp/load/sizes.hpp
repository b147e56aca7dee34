#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <variant>

namespace narsil::load {

using Random = std::mt19937_64;

struct ConstantSize {
    std::uint32_t rows;
};

// Rounded to whole rows, from 1 to `rows_max`.
struct LognormalSize {
    double median;
    double sigma;
    std::uint32_t rows_max;
};

// The shape of MLPerf's DLRM requests, 100 to 700 rows, 270 on average: the table of `narsil-graph simulate`.
struct MlperfSize {};

using Sizes = std::variant<ConstantSize, LognormalSize, MlperfSize>;

// `constant:ROWS`, `lognormal:MEDIAN:SIGMA[:MAX]` or `mlperf`, as `narsil-graph simulate` takes it; else nothing.
std::optional<Sizes> parse_sizes(const std::string& text);

// The rows of one request.
std::uint32_t draw_rows(const Sizes& sizes, Random& random);

// The most rows that a request can have.
std::uint32_t rows_max(const Sizes& sizes);

}  // namespace narsil::load
