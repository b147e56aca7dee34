#include <doctest/doctest.h>

#include "replies.hpp"

namespace narsil::test {
namespace {

using namespace std::chrono_literals;
using detail::Session;

const TimePoint t0{std::chrono::hours(1)};

// A session whose servers are connected, and what it has sent to each.
struct Rig {
    explicit Rig(std::size_t servers, std::size_t inflight_max = 64)
        : session(std::vector<std::string>(servers, "ipc:///x"), inflight_max, true), sent(servers) {
        for (std::size_t index = 0; index < servers; ++index) session.up(index);
    }

    std::uint64_t begin(const Request& request, TimePoint now = t0) {
        const auto id = session.begin(request, now, now + 1s);
        place(now);
        return id;
    }
    bool place(TimePoint now = t0) {
        return session.place(now, [this](std::size_t server, const wire::Message& frames) {
            if (accepts) sent[server].push_back(frames[0].to_string());
            return accepts;
        });
    }
    void receive(std::size_t server, const Frames& frames, TimePoint now = t0) {
        session.receive(server, views(frames), now);
    }
    Failure failed(std::uint64_t id) {
        const auto finished = session.take(id);
        REQUIRE(finished);
        return std::get<Failure>(finished->outcome);
    }

    Session session;
    std::vector<Frames> sent;
    bool accepts = true;
    OneRow row;
};

TEST_CASE("replies are matched by id in any order") {
    Rig rig(1);
    const auto first = rig.begin(rig.row.request()), second = rig.begin(rig.row.request());
    rig.receive(0, scores_reply(second, {0.2F}), t0 + 10us);
    rig.receive(0, scores_reply(first, {0.1F}), t0 + 20us);
    CHECK(rig.session.inflight() == 0);
    const auto finished = rig.session.take(first);
    REQUIRE(finished);
    const auto& scores = std::get<Scores>(finished->outcome);
    CHECK(scores.scores == std::vector<float>{0.1F});
    CHECK(scores.times.server_us == 5.5);
    CHECK(scores.round_trip_us == doctest::Approx(20));
    CHECK(rig.session.take()->id == second);
    CHECK_FALSE(rig.session.take());
}

TEST_CASE("of two replies to an id the first counts") {
    Rig rig(1);
    const auto id = rig.begin(rig.row.request());
    rig.receive(0, scores_reply(id, {0.1F}));
    rig.receive(0, scores_reply(id, {0.9F}));
    CHECK(std::get<Scores>(rig.session.take()->outcome).scores[0] == 0.1F);
    CHECK_FALSE(rig.session.take());
}

TEST_CASE("a reply that does not fit its request is dropped and named when it times out") {
    Rig rig(1);
    const auto id = rig.begin(rig.row.request());
    rig.receive(0, scores_reply(id, {0.1F, 0.2F}));
    rig.receive(0, health_reply(id));
    rig.receive(0, {"garbage"});
    rig.receive(0, {});
    CHECK(rig.session.inflight() == 1);
    rig.receive(0, refusal_reply(0, Status::invalid, "what is this"));
    const auto cancels = rig.session.expire(t0 + 1s);
    REQUIRE(cancels.size() == 1);
    CHECK(cancels[0].id == id);
    const auto failure = rig.failed(id);
    CHECK(failure.kind() == Failure::Kind::timeout);
    CHECK(failure.detail() == "no answer in 1000 ms; an unusable message came: what is this");
}

TEST_CASE("a window that a reply grants is kept from then on") {
    Rig rig(1);
    rig.receive(0, scores_reply(rig.begin(rig.row.request()), {0.1F}, 1));
    rig.begin(rig.row.request());
    const auto waiting = rig.begin(rig.row.request());
    CHECK(rig.sent[0].size() == 2);
    CHECK(rig.session.unsent(waiting));
    rig.session.expire(t0 + 1s);
    CHECK(rig.failed(waiting).kind() == Failure::Kind::timeout);
}

TEST_CASE("what was in flight at a lost server is sent once more, to another") {
    Rig rig(2);
    const auto id = rig.begin(rig.row.request());
    rig.session.down(0, t0 + 1ms);
    rig.place(t0 + 1ms);
    CHECK(rig.sent[1] == rig.sent[0]);
    rig.session.down(1, t0 + 2ms);
    CHECK(rig.failed(id).kind() == Failure::Kind::server_lost);
}

TEST_CASE("with one server a lost request waits for it to come back") {
    Rig rig(1);
    const auto id = rig.begin(rig.row.request());
    rig.session.down(0, t0 + 1ms);
    rig.place(t0 + 1ms);
    CHECK(rig.sent[0].size() == 1);
    rig.session.up(0);
    rig.place(t0 + 100ms);
    CHECK(rig.sent[0].size() == 2);
    rig.receive(0, scores_reply(id, {0.5F}));
    CHECK(std::holds_alternative<Scores>(rig.session.take(id)->outcome));
}

TEST_CASE("a lost request that nobody takes fails with its time-out, as lost") {
    Rig rig(1);
    const auto id = rig.begin(rig.row.request());
    rig.session.down(0, t0 + 1ms);
    CHECK(rig.session.expire(t0 + 1s).empty());
    CHECK(rig.failed(id).kind() == Failure::Kind::server_lost);
}

TEST_CASE("nothing is sent a second time once its deadline has passed") {
    Rig rig(2);
    auto request = rig.row.request();
    request.deadline_us = 500;
    const auto late = rig.begin(request);
    rig.session.down(0, t0 + 500us);
    CHECK(rig.failed(late).kind() == Failure::Kind::server_lost);
    CHECK(rig.sent[1].empty());
}

TEST_CASE("a draining server's refusal is tried once elsewhere") {
    for (const auto status : {Status::draining, Status::unavailable}) {
        Rig rig(2);
        const auto id = rig.begin(rig.row.request());
        rig.receive(0, refusal_reply(id, status));
        rig.place();
        CHECK(rig.sent[1].size() == 1);
        rig.receive(1, refusal_reply(id, status));
        CHECK(rig.failed(id).is(status));
    }
}

TEST_CASE("a draining server's refusal counts where there is no other") {
    Rig rig(1);
    const auto id = rig.begin(rig.row.request());
    rig.receive(0, refusal_reply(id, Status::draining));
    CHECK(rig.failed(id).is(Status::draining));
    Rig two(2);
    const auto second = two.begin(two.row.request());
    two.receive(0, refusal_reply(second, Status::draining));
    two.session.down(1, t0);
    CHECK(two.place());
    CHECK(two.failed(second).is(Status::draining));
}

TEST_CASE("other refusals are not tried elsewhere") {
    Rig rig(2);
    const auto id = rig.begin(rig.row.request());
    rig.receive(0, refusal_reply(id, Status::overloaded));
    CHECK(rig.failed(id).is(Status::overloaded));
}

TEST_CASE("a cancel goes to the server that has the request") {
    Rig rig(3);
    rig.begin(rig.row.request());
    const auto id = rig.begin(rig.row.request());
    const auto cancel = rig.session.cancel(id, t0);
    REQUIRE(cancel);
    CHECK(cancel->server == 1);
    CHECK_FALSE(rig.session.cancel(99, t0));
    rig.session.down(1, t0);
    CHECK(rig.failed(id).is(Status::cancelled));
}

TEST_CASE("a request that waits to be sent again is cancelled at once") {
    Rig rig(1);
    const auto id = rig.begin(rig.row.request());
    rig.session.down(0, t0);
    CHECK_FALSE(rig.session.cancel(id, t0));
    CHECK(rig.failed(id).is(Status::cancelled));
    CHECK(rig.session.inflight() == 0);
}

TEST_CASE("an unsent request fails as unreachable, as refused, or for want of room") {
    Rig nobody(1);
    nobody.session.down(0, t0);
    const auto alone = nobody.begin(nobody.row.request());
    nobody.session.expire(t0 + 1s);
    const auto failed = nobody.session.take_unsent(alone);
    REQUIRE(failed);
    CHECK(std::get<Failure>(failed->outcome).kind() == Failure::Kind::unreachable);

    Rig refused(1);
    refused.session.down(0, t0);
    refused.session.fleet().refuse(0, "not you", true, t0);
    const auto stranger = refused.begin(refused.row.request());
    const auto failure = refused.failed(stranger);
    CHECK(failure.kind() == Failure::Kind::handshake_refused);
    CHECK(failure.detail() == "ipc:///x: not you");
    CHECK_THROWS_AS(failure.raise(), HandshakeRefused);

    Rig full(1);
    full.accepts = false;
    const auto crowded = full.begin(full.row.request());
    full.session.expire(t0 + 1s);
    CHECK(full.failed(crowded).kind() == Failure::Kind::timeout);
}

TEST_CASE("what is forgotten leaves nothing behind") {
    Rig rig(1);
    const auto id = rig.begin(rig.row.request());
    rig.session.forget(id, t0);
    CHECK(rig.session.inflight() == 0);
    CHECK_FALSE(rig.session.take());
    rig.receive(0, scores_reply(id, {0.5F}));
    CHECK_FALSE(rig.session.take());
}

TEST_CASE("a question about a server ends in its reply") {
    Rig rig(1);
    const auto id = rig.session.begin(wire::Operation::health, t0, t0 + 1s);
    rig.place();
    rig.receive(0, health_reply(id));
    const auto finished = rig.session.take(id);
    REQUIRE(finished);
    CHECK(std::get<Health>(finished->outcome).inflight == 3);
    CHECK_FALSE(std::get<Health>(finished->outcome).draining);
}

}  // namespace
}  // namespace narsil::test
