#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "fake_server.hpp"
#include "narsil/client.hpp"
#include "report.hpp"
#include "run.hpp"

using namespace narsil::load;

namespace {

constexpr std::chrono::milliseconds stall(200);
constexpr std::chrono::milliseconds no_stall(0);

Settings brief(const FakeServer& server) {
    Settings settings;
    settings.endpoints = {server.endpoint()};
    settings.sizes = ConstantSize{1};
    settings.warm_up_s = 0.0;
    settings.duration_s = 0.1;
    return settings;
}

std::uint64_t above_100_ms(const Histogram& times) {
    std::uint64_t found = 0;
    for (const auto& cell : times.cells()) found += cell.top > 100'000'000 ? cell.count : 0;
    return found;
}

}  // namespace

TEST_CASE("an open loop counts every request that a stall of 200 ms kept back, though the window was full") {
    FakeServer server(100, stall);
    Settings settings = brief(server);
    settings.rate_per_s = 1000.0;
    settings.arrivals = Arrivals::fixed;
    settings.window = 4;
    settings.duration_s = 0.6;
    const Tally tally = run(settings).tally;
    CHECK(tally.intended == 600);
    CHECK(tally.scored == 600);
    // A hundred of the requests came in the stall's first half; no more than the window, or an answer or two, was sent.
    CHECK(above_100_ms(tally.latency) >= 95);
    CHECK(above_100_ms(tally.round_trip) < above_100_ms(tally.latency) / 2);
    CHECK(tally.latency.at(0.999) >= 190'000'000);
    CHECK(tally.lateness.max() >= 150'000'000);
    CHECK(tally.held >= 190);
}

TEST_CASE("a closed loop sends but its depth into a stall") {
    FakeServer server(10, stall);
    Settings settings = brief(server);
    settings.closed = 2;
    settings.duration_s = 0.4;
    const Tally tally = run(settings).tally;
    CHECK(tally.latency.max() >= 190'000'000);
    CHECK(tally.sent == tally.scored);
    CHECK(tally.lateness.count() == tally.sent);
}

TEST_CASE("what could not be sent in time is counted, with the time it waited") {
    FakeServer server(1, std::chrono::milliseconds(600));
    Settings settings = brief(server);
    settings.rate_per_s = 1000.0;
    settings.arrivals = Arrivals::fixed;
    settings.window = 1;
    settings.timeout_ms = 200;
    const Tally tally = run(settings).tally;
    CHECK(tally.intended == 100);
    CHECK(tally.scored == 0);
    CHECK(tally.failed.at("timeout") == tally.sent);
    CHECK(tally.complaint.find("no answer") == 0);
    CHECK(tally.unsent == 100 - tally.sent);
    CHECK(tally.unsent >= 95);
    CHECK(tally.latency.count() == 100);
    CHECK(tally.latency.min() >= 100'000'000);
}

TEST_CASE("the requests of the warm-up are sent and not counted") {
    FakeServer server(0, no_stall);
    Settings settings = brief(server);
    settings.rate_per_s = 500.0;
    settings.arrivals = Arrivals::fixed;
    settings.warm_up_s = 0.1;
    const Tally tally = run(settings).tally;
    CHECK(tally.warm_up_requests == 50);
    CHECK(tally.intended == 50);
    CHECK(tally.latency.count() == 50);
}

TEST_CASE("threads and connections share the rate") {
    FakeServer server(0, no_stall);
    Settings settings = brief(server);
    settings.rate_per_s = 1000.0;
    settings.arrivals = Arrivals::fixed;
    settings.connections = 5;
    settings.threads = 2;
    const Tally tally = run(settings).tally;
    CHECK(tally.intended == 100);
    CHECK(tally.scored == 100);
    CHECK(tally.stages[4].max() == 12'500);
}

TEST_CASE("a server that is not there is an error") {
    Settings settings;
    settings.endpoints = {"ipc:///tmp/narsil-load-nobody"};
    settings.timeout_ms = 50;
    settings.closed = 1;
    CHECK_THROWS_AS(run(settings), narsil::Error);
}

TEST_CASE("the result has its keys, and a summary is made of it") {
    FakeServer server(0, no_stall);
    Settings settings = brief(server);
    settings.closed = 1;
    settings.duration_s = 0.02;
    const Outcome outcome = run(settings);
    const auto result = to_json(settings, outcome.shape, outcome.version, outcome.tally);
    for (const char* key : {"config", "server", "requests", "refused", "failed", "scored_per_s", "rows_per_s",
                            "latency_us", "round_trip_us", "send_late_us", "refusal_us", "stages_us",
                            "latency_histogram_us"}) {
        CAPTURE(key);
        CHECK(result.contains(key));
    }
    CHECK(result["narsil_load"] == 1);
    CHECK(result["server"]["version"] == "fake");
    CHECK(result["server"]["features"] == 2);
    CHECK(result["config"]["closed"]["in_flight"] == 1);
    CHECK(result["refused"].is_object());
    CHECK(result["latency_us"]["count"] == result["requests"]["scored"]);
    CHECK(result["stages_us"]["server"]["max"] == 12.5);
    CHECK(to_text(result).find("closed loop") == 0);
}
