#include "sizes.hpp"

#include <array>
#include <cmath>
#include <vector>

#include "numbers.hpp"

namespace narsil::load {
namespace {

// Of the seven sizes in MLPerf's published sample of 100, in per cent, rounded so that the mean is the benchmark's 270.
constexpr std::array<std::uint32_t, 7> mlperf_percent = {10, 60, 10, 5, 6, 3, 6};
constexpr std::uint32_t mlperf_step_rows = 100;
// What `narsil-graph serve` takes by default.
constexpr std::uint32_t lognormal_rows_max = 4096;

std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> parts(1);
    for (const char letter : text) {
        if (letter == ':') {
            parts.emplace_back();
        } else {
            parts.back() += letter;
        }
    }
    return parts;
}

std::uint32_t draw(const ConstantSize& size, Random&) { return size.rows; }

std::uint32_t draw(const LognormalSize& size, Random& random) {
    std::normal_distribution<double> normal;
    const double rows = std::rint(size.median * std::exp(size.sigma * normal(random)));
    if (rows <= 1.0) return 1;
    return rows >= size.rows_max ? size.rows_max : static_cast<std::uint32_t>(rows);
}

std::uint32_t draw(const MlperfSize&, Random& random) {
    std::uint32_t left = std::uniform_int_distribution<std::uint32_t>(0, 99)(random);
    std::uint32_t step = 0;
    while (left >= mlperf_percent[step]) left -= mlperf_percent[step++];
    return (step + 1) * mlperf_step_rows;
}

}  // namespace

std::optional<Sizes> parse_sizes(const std::string& text) {
    const auto parts = split(text);
    if (text == "mlperf") return MlperfSize{};
    if (parts[0] == "constant" && parts.size() == 2) {
        if (const auto rows = whole(parts[1], request_rows_max)) return ConstantSize{*rows};
    }
    if (parts[0] == "lognormal" && (parts.size() == 3 || parts.size() == 4)) {
        const auto median = real(parts[1]);
        const auto sigma = real(parts[2]);
        const auto most = parts.size() == 4 ? whole(parts[3], request_rows_max) : lognormal_rows_max;
        if (median && *median > 0 && sigma && most) return LognormalSize{*median, *sigma, *most};
    }
    return std::nullopt;
}

std::uint32_t draw_rows(const Sizes& sizes, Random& random) {
    return std::visit([&random](const auto& size) { return draw(size, random); }, sizes);
}

std::uint32_t rows_max(const Sizes& sizes) {
    if (const auto* constant = std::get_if<ConstantSize>(&sizes)) return constant->rows;
    if (const auto* lognormal = std::get_if<LognormalSize>(&sizes)) return lognormal->rows_max;
    return static_cast<std::uint32_t>(mlperf_percent.size()) * mlperf_step_rows;
}

}  // namespace narsil::load
