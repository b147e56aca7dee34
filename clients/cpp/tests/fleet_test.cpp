#include <doctest/doctest.h>

#include "narsil/fleet.hpp"

namespace narsil::detail {
namespace {

using namespace std::chrono_literals;

const TimePoint t0{std::chrono::hours(1)};

Fleet connected(std::size_t servers, std::size_t inflight_max = 64) {
    Fleet fleet(std::vector<std::string>(servers, "ipc:///somewhere"), inflight_max, true);
    for (std::size_t index = 0; index < servers; ++index) fleet.up(index);
    return fleet;
}

std::optional<std::size_t> next(const Fleet& fleet) { return fleet.pick(std::nullopt, false, t0); }

TEST_CASE("nobody is picked before a handshake has succeeded") {
    CHECK_FALSE(next(Fleet({"a", "b"}, 64, true)));
}

TEST_CASE("the server with the least unanswered is next, and ties go round") {
    auto fleet = connected(3);
    std::vector<std::size_t> order;
    for (int turn = 0; turn < 4; ++turn) {
        order.push_back(*next(fleet));
        fleet.sent(order.back(), false);
    }
    CHECK(order == std::vector<std::size_t>{0, 1, 2, 0});
    fleet.answered(2);
    CHECK(next(fleet) == 2);
}

TEST_CASE("no server is given more than it grants") {
    auto fleet = connected(1);
    fleet.grant(0, 2);
    fleet.sent(0, false);
    CHECK(fleet.any_room());
    fleet.sent(0, false);
    CHECK_FALSE(fleet.any_room());
    CHECK_FALSE(next(fleet));
    fleet.answered(0);
    CHECK(next(fleet) == 0);
}

TEST_CASE("no server is given more than the client wants in flight") {
    auto fleet = connected(1, 1);
    fleet.grant(0, 100);
    fleet.sent(0, false);
    CHECK_FALSE(next(fleet));
}

TEST_CASE("before it says otherwise a server grants 64, and so after each new connection") {
    auto fleet = connected(1, 1000);
    fleet.grant(0, 256);
    fleet.down(0, t0);
    fleet.up(0);
    for (int sent = 0; sent < 64; ++sent) fleet.sent(0, false);
    CHECK_FALSE(next(fleet));
}

TEST_CASE("a question about a server needs no room and goes round") {
    auto fleet = connected(2);
    fleet.grant(0, 1);
    fleet.sent(0, false);
    fleet.sent(1, true);
    CHECK(fleet.pick(std::nullopt, true, t0) == 0);
    fleet.sent(0, true);
    CHECK(fleet.pick(std::nullopt, true, t0) == 1);
}

TEST_CASE("an abandoned request fills its place until it is answered or a second has passed") {
    auto fleet = connected(1, 2);
    fleet.sent(0, false);
    fleet.sent(0, false);
    fleet.abandon(0, 1, t0);
    fleet.abandon(0, 2, t0 + 1ms);
    CHECK_FALSE(fleet.any_room());
    fleet.answered_abandoned(0, 2);
    CHECK(fleet.any_room());
    fleet.sent(0, false);
    CHECK(fleet.wake() == t0 + 1s);
    fleet.refresh(t0 + 1s);
    CHECK(fleet.any_room());
    fleet.answered_abandoned(0, 1);
    fleet.sent(0, false);
    CHECK_FALSE(fleet.any_room());
}

TEST_CASE("a server that takes no work is passed over for a second while another does") {
    auto fleet = connected(2);
    fleet.shun(0, t0);
    fleet.sent(1, false);
    CHECK(fleet.pick(std::nullopt, false, t0) == 1);
    CHECK(fleet.pick(1, false, t0) == 0);
    CHECK(fleet.pick(std::nullopt, false, t0 + 1s) == 0);
}

TEST_CASE("a socket without room is passed over until the next round") {
    auto fleet = connected(1);
    fleet.stall(0);
    CHECK_FALSE(next(fleet));
    fleet.refresh(t0);
    CHECK(next(fleet) == 0);
}

TEST_CASE("a refused handshake is tried again after twice as long each time, five seconds at most") {
    Fleet fleet({"a"}, 64, true);
    auto now = t0;
    std::vector<std::int64_t> waits_ms;
    for (int attempt = 0; attempt < 9; ++attempt) {
        fleet.refuse(0, "no", true, now);
        CHECK(fleet.all_refused());
        waits_ms.push_back(std::chrono::duration_cast<std::chrono::milliseconds>(fleet.wake() - now).count());
        CHECK_FALSE(fleet.due(fleet.wake() - 1ns));
        now = fleet.wake();
        CHECK(fleet.due(now) == 0);
        CHECK_FALSE(fleet.all_refused());
    }
    CHECK(waits_ms == std::vector<std::int64_t>{50, 100, 200, 400, 800, 1600, 3200, 5000, 5000});
    CHECK(fleet.refusals() == "a: no");
    fleet.up(0);
    CHECK(fleet.refusals().empty());
}

TEST_CASE("handshakes that break off are a refusal only three in a row") {
    Fleet fleet({"a"}, 64, true);
    for (int attempt = 1; attempt <= 3; ++attempt) {
        CHECK_FALSE(fleet.all_refused());
        fleet.refuse(0, "it hung up", false, t0);
        CHECK(fleet.all_refused() == (attempt == 3));
        if (attempt < 3) fleet.due(t0 + 1h);
    }
}

TEST_CASE("a server that hangs up on a client without keys is waited for") {
    Fleet fleet({"a"}, 64, false);
    for (int attempt = 0; attempt < 6; ++attempt) {
        fleet.refuse(0, "it hung up", false, t0);
        CHECK_FALSE(fleet.all_refused());
        fleet.due(t0 + 1h);
    }
}

TEST_CASE("a lost server is asked again after 50 ms, and its end after a failed handshake is no second one") {
    auto fleet = connected(1);
    fleet.down(0, t0);
    CHECK(fleet.wake() == t0 + 50ms);
    fleet.down(0, t0 + 10ms);
    CHECK(fleet.wake() == t0 + 50ms);
    CHECK(fleet.due(t0 + 50ms) == 0);
    CHECK_FALSE(fleet.due(t0 + 1h));
}

}  // namespace
}  // namespace narsil::detail
