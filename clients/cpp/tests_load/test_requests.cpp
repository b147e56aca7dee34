#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "inputs.hpp"
#include "schedule.hpp"
#include "sizes.hpp"

using namespace narsil::load;

namespace {

std::vector<std::uint32_t> draws(const std::string& text, std::size_t count) {
    Random random(1);
    std::vector<std::uint32_t> rows(count);
    for (auto& drawn : rows) drawn = draw_rows(parse_sizes(text).value(), random);
    return rows;
}

double mean(const std::vector<std::uint32_t>& rows) {
    double sum = 0.0;
    for (const auto drawn : rows) sum += drawn;
    return sum / static_cast<double>(rows.size());
}

}  // namespace

TEST_CASE("MLPerf's requests have 100 to 700 rows, 270 on average") {
    const auto rows = draws("mlperf", 20000);
    CHECK(*std::min_element(rows.begin(), rows.end()) == 100);
    CHECK(*std::max_element(rows.begin(), rows.end()) == 700);
    CHECK(mean(rows) == doctest::Approx(270).epsilon(0.02));
    CHECK(rows_max(parse_sizes("mlperf").value()) == 700);
}

TEST_CASE("lognormal sizes have their median and stay within their bounds") {
    auto rows = draws("lognormal:200:1:300", 20001);
    CHECK(*std::min_element(rows.begin(), rows.end()) >= 1);
    CHECK(*std::max_element(rows.begin(), rows.end()) == 300);
    std::nth_element(rows.begin(), rows.begin() + 10000, rows.end());
    CHECK(rows[10000] == doctest::Approx(200).epsilon(0.05));
}

TEST_CASE("constant sizes are constant") { CHECK(mean(draws("constant:17", 10)) == 17.0); }

TEST_CASE("text that describes no sizes is none") {
    for (const char* text : {"", "constant", "constant:0", "constant:-1", "constant:1x", "lognormal:100", "mlperf:1",
                             "lognormal:0:1", "lognormal:100:-1", "lognormal:100:1:0", "lognormal:nan:1", "zipf:3"}) {
        CAPTURE(text);
        CHECK(!parse_sizes(text));
    }
}

TEST_CASE("threads with fixed arrivals take turns") {
    Schedule first(Arrivals::fixed, 1000.0, 0, 2, 7);
    Schedule second(Arrivals::fixed, 1000.0, 1, 2, 7);
    CHECK(first.next_ns() == 0);
    CHECK(second.next_ns() == 1'000'000);
    first.advance();
    second.advance();
    CHECK(first.next_ns() == 2'000'000);
    CHECK(second.next_ns() == 3'000'000);
}

TEST_CASE("fixed arrivals do not drift") {
    Schedule schedule(Arrivals::fixed, 3000.0, 0, 1, 7);
    for (int count = 0; count < 30000; ++count) schedule.advance();
    CHECK(schedule.next_ns() == 10'000'000'000);
}

TEST_CASE("a thread's Poisson arrivals have its share of the rate, and are not evenly spaced") {
    Schedule schedule(Arrivals::poisson, 4000.0, 0, 4, 7);
    int early = 0;
    for (int count = 0; count < 10000; ++count) {
        const auto before = schedule.next_ns();
        schedule.advance();
        // A share 1 - exp(-1/2) = 0.393 of exponential gaps is below half of the mean gap.
        early += schedule.next_ns() - before < 500'000;
    }
    CHECK(static_cast<double>(schedule.next_ns()) == doctest::Approx(10e9).epsilon(0.05));
    CHECK(early == doctest::Approx(3935).epsilon(0.05));
}

TEST_CASE("ids are within their tables, down to tables of one row") {
    const Inputs inputs({2, {1, 3, 1000}}, 50, 3);
    Random random(5);
    std::vector<std::int32_t> largest(3);
    std::int32_t least = 0;
    for (int request = 0; request < 1000; ++request) {
        const std::int32_t* ids = inputs.ids(inputs.draw_first(50, random));
        for (std::size_t at = 0; at < 50 * 3; ++at) {
            least = std::min(least, ids[at]);
            largest[at % 3] = std::max(largest[at % 3], ids[at]);
        }
    }
    CHECK(least == 0);
    CHECK(largest == std::vector<std::int32_t>{0, 2, 999});
}

TEST_CASE("one seed makes the same inputs again, another makes others") {
    const Shape shape{4, {100, 100}};
    const Inputs inputs(shape, 10, 1);
    const Inputs same(shape, 10, 1);
    const Inputs others(shape, 10, 2);
    CHECK(std::equal(inputs.ids(0), inputs.ids(10), same.ids(0)));
    CHECK(std::equal(inputs.dense(0), inputs.dense(10), same.dense(0)));
    CHECK(!std::equal(inputs.ids(0), inputs.ids(10), others.ids(0)));
}
