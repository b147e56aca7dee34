#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "settings.hpp"

using namespace narsil::load;

namespace {

Settings parsed(std::vector<const char*> words) {
    words.insert(words.begin(), "narsil-load");
    return parse_settings(static_cast<int>(words.size()), words.data()).value();
}

std::string refusal(std::vector<const char*> words) {
    try {
        parsed(std::move(words));
    } catch (const UsageError& error) {
        return error.what();
    }
    return "";
}

}  // namespace

TEST_CASE("what is not given has its default") {
    const Settings settings = parsed({"ipc:///a", "--rate", "100"});
    CHECK(settings.endpoints == std::vector<std::string>{"ipc:///a"});
    CHECK(settings.rate_per_s == 100.0);
    CHECK(settings.arrivals == Arrivals::poisson);
    CHECK(settings.connections == 1);
    CHECK(rows_max(settings.sizes) == 100);
    CHECK(!settings.shape);
    CHECK(!settings.deadline_us);
    CHECK(!settings.bulk);
}

TEST_CASE("options are read") {
    const Settings settings = parsed({"ipc:///a", "ipc:///b", "--closed", "8", "--connections", "4", "--threads", "2",
                                      "--sizes", "mlperf", "--priority", "bulk", "--deadline-us", "900"});
    CHECK(settings.endpoints.size() == 2);
    CHECK(settings.closed == 8);
    CHECK(settings.connections == 4);
    CHECK(settings.threads == 2);
    CHECK(rows_max(settings.sizes) == 700);
    CHECK(settings.bulk);
    CHECK(settings.deadline_us == 900U);
    CHECK(parsed({"ipc:///a", "--rate", "1", "--arrivals", "fixed"}).arrivals == Arrivals::fixed);
}

TEST_CASE("a shape is given by tables' rows, or by one number for all features") {
    const auto listed = parsed({"ipc:///a", "--rate", "1", "--dense", "13", "--table-rows", "10,20"}).shape.value();
    CHECK(listed.dense == 13);
    CHECK(listed.table_rows == std::vector<std::uint32_t>{10, 20});
    const auto repeated =
        parsed({"ipc:///a", "--rate", "1", "--dense", "13", "--features", "3", "--table-rows", "7"}).shape.value();
    CHECK(repeated.table_rows == std::vector<std::uint32_t>{7, 7, 7});
}

TEST_CASE("a command line that cannot be run is refused in one sentence") {
    const std::vector<std::vector<const char*>> wrong = {
        {"--rate", "1"},
        {"ipc:///a"},
        {"ipc:///a", "--rate", "1", "--closed", "1"},
        {"ipc:///a", "--rate", "-1"},
        {"ipc:///a", "--rate", "x"},
        {"ipc:///a", "--rate", "nan"},
        {"ipc:///a", "--rate", "1", "--arrivals", "bursty"},
        {"ipc:///a", "--rate", "1", "--sizes", "zipf"},
        {"ipc:///a", "--rate", "1", "--connections", "1", "--threads", "2"},
        {"ipc:///a", "--rate", "1", "--connections", "0"},
        {"ipc:///a", "--rate", "1", "--dense", "3"},
        {"ipc:///a", "--rate", "1", "--features", "3"},
        {"ipc:///a", "--rate", "1", "--dense", "3", "--features", "3", "--table-rows", "4,4"},
        {"ipc:///a", "--rate", "1", "--deadline-us", "0"},
        {"ipc:///a", "--rate", "1", "--deadline-us", "-5"},
        {"ipc:///a", "--rate", "1", "--seed", "-1"},
        {"ipc:///a", "--rate", "1", "--priority", "urgent"},
        {"ipc:///a", "--rate", "1", "--duration-s", "0"},
        {"ipc:///a", "--rate", "1", "--server-key", "key"},
        {"ipc:///a", "--rate", "1", "--burst"},
    };
    for (const auto& words : wrong) {
        const std::string sentence = refusal(words);
        CAPTURE(words.back());
        CAPTURE(sentence);
        CHECK(!sentence.empty());
        CHECK(sentence.find('\n') == std::string::npos);
    }
}
