#include <doctest/doctest.h>

#include <cstdint>

#include "histogram.hpp"

using narsil::load::Histogram;

TEST_CASE("a quantile is never below its value and at most 0.1% above") {
    for (std::uint64_t value = 1; value < Histogram::value_max / 3; value = value * 3 / 2 + 1) {
        Histogram histogram;
        histogram.record(value);
        histogram.record(Histogram::value_max);
        CHECK(histogram.at(0.5) >= value);
        CHECK(static_cast<double>(histogram.at(0.5)) <= static_cast<double>(value) * (1.0 + 1.0 / 1024));
    }
}

TEST_CASE("values below 2048 are exact") {
    Histogram histogram;
    for (std::uint64_t value = 0; value < 2048; ++value) histogram.record(value);
    CHECK(histogram.cells().size() == 2048);
    CHECK(histogram.at(0.5) == 1023);
    CHECK(histogram.at(0.0) == 0);
    CHECK(histogram.at(1.0) == 2047);
}

TEST_CASE("count, mean, least and largest are exact, and the largest bounds every quantile") {
    Histogram histogram;
    histogram.record(1'000'001);
    histogram.record(3'000'001);
    CHECK(histogram.count() == 2);
    CHECK(histogram.mean() == 2'000'001.0);
    CHECK(histogram.min() == 1'000'001);
    CHECK(histogram.max() == 3'000'001);
    CHECK(histogram.at(0.9999) == 3'000'001);
}

TEST_CASE("histograms add up") {
    Histogram low;
    Histogram high;
    for (int times = 0; times < 99; ++times) low.record(10);
    high.record(2'000'000);
    low.add(high);
    CHECK(low.count() == 100);
    CHECK(low.at(0.99) == 10);
    CHECK(low.at(0.991) == 2'000'000);
}

TEST_CASE("an empty histogram is all zeros") {
    const Histogram histogram;
    CHECK(histogram.min() == 0);
    CHECK(histogram.max() == 0);
    CHECK(histogram.mean() == 0.0);
    CHECK(histogram.at(0.99) == 0);
}

TEST_CASE("a value above the largest counts as the largest") {
    Histogram histogram;
    histogram.record(~std::uint64_t{0});
    CHECK(histogram.max() == Histogram::value_max);
    CHECK(histogram.at(0.5) == Histogram::value_max);
}
