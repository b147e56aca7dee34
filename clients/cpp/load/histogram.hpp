#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace narsil::load {

// A high dynamic range histogram of nanoseconds: log-linear, as HdrHistogram's, which Debian 12 has no C package of.
//
// Values below 2048 have a cell each; above, every power of two is cut into 1024 cells, so a quantile, which is the
// largest value of its cell, is at most 1/1024 (0.1%) above the value that it stands for, and never below it. Count,
// sum, least and largest are exact. Values above 2^43 - 1 ns (2.4 hours) count as that.
class Histogram {
public:
    static constexpr std::uint64_t value_max = (std::uint64_t{1} << 43) - 1;

    void record(std::uint64_t value) {
        value = std::min(value, value_max);
        ++cells_[cell_of(value)];
        ++count_;
        sum_ += static_cast<double>(value);
        min_ = std::min(min_, value);
        max_ = std::max(max_, value);
    }

    void add(const Histogram& other) {
        for (std::size_t cell = 0; cell < cells_.size(); ++cell) cells_[cell] += other.cells_[cell];
        count_ += other.count_;
        sum_ += other.sum_;
        min_ = std::min(min_, other.min_);
        max_ = std::max(max_, other.max_);
    }

    std::uint64_t count() const { return count_; }
    std::uint64_t min() const { return count_ ? min_ : 0; }
    std::uint64_t max() const { return max_; }
    double mean() const { return count_ ? sum_ / static_cast<double>(count_) : 0.0; }

    // The least value that a share `quantile` (0 to 1) of the values do not exceed; 0 where there is none.
    std::uint64_t at(double quantile) const {
        const double rank = std::max(1.0, std::ceil(quantile * static_cast<double>(count_)));
        std::uint64_t seen = 0;
        for (std::size_t cell = 0; cell < cells_.size(); ++cell) {
            seen += cells_[cell];
            if (static_cast<double>(seen) >= rank) return std::min(top_of(cell), max_);
        }
        return max_;
    }

    struct Cell {
        std::uint64_t top;
        std::uint64_t count;
    };

    // The cells that hold anything, in order, each with the largest value that it stands for.
    std::vector<Cell> cells() const {
        std::vector<Cell> found;
        for (std::size_t cell = 0; cell < cells_.size(); ++cell)
            if (cells_[cell]) found.push_back({top_of(cell), cells_[cell]});
        return found;
    }

private:
    static constexpr unsigned half_bits = 10;
    static constexpr std::size_t half = std::size_t{1} << half_bits;

    // With s the shift that leaves value >> s in [1024, 2047], the cell is s * 1024 + (value >> s); below 1024, s is 0.
    static std::size_t cell_of(std::uint64_t value) {
        unsigned shift = 0;
        if (value >= 2 * half) shift = 63U - half_bits - static_cast<unsigned>(__builtin_clzll(value));
        return shift * half + static_cast<std::size_t>(value >> shift);
    }

    static std::uint64_t top_of(std::size_t cell) {
        const std::size_t shift = cell < 2 * half ? 0 : cell / half - 1;
        return ((static_cast<std::uint64_t>(cell - shift * half) + 1) << shift) - 1;
    }

    std::vector<std::uint64_t> cells_ = std::vector<std::uint64_t>(cell_of(value_max) + 1);
    std::uint64_t count_ = 0;
    std::uint64_t min_ = std::numeric_limits<std::uint64_t>::max();
    std::uint64_t max_ = 0;
    double sum_ = 0.0;
};

}  // namespace narsil::load
