// The client and its sockets, against ROUTERs in the same thread: libzmq's own threads carry the messages.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <fstream>
#include <set>

#include "folder.hpp"
#include "replies.hpp"
#include "server.hpp"

namespace narsil::test {
namespace {

using namespace std::chrono_literals;

struct Rig {
    std::string endpoint(const std::string& name) const { return "ipc://" + folder.path + "/" + name; }
    static Options options(std::vector<std::string> endpoints) {
        Options options;
        options.endpoints = std::move(endpoints);
        options.timeout = 2s;
        return options;
    }

    Folder folder;
    OneRow row;
};

float score(const std::optional<Completion>& completion) {
    REQUIRE(completion);
    REQUIRE(std::holds_alternative<Scores>(completion->outcome));
    return std::get<Scores>(completion->outcome).scores.at(0);
}

TEST_CASE("options that cannot be are refused") {
    CHECK_THROWS_AS(Client(Options{}), std::invalid_argument);
    auto options = Rig::options({"ipc:///tmp/x"});
    options.inflight_max = 0;
    CHECK_THROWS_AS(Client{options}, std::invalid_argument);
    options.inflight_max = 1;
    options.timeout = 0s;
    CHECK_THROWS_AS(Client{options}, std::invalid_argument);
    options.timeout = 1s;
    options.keep_warm = 2s;
    CHECK_THROWS_AS(Client{options}, std::invalid_argument);
    CHECK_THROWS_AS(Client(Rig::options({"nonsense"})), Unreachable);
}

TEST_CASE("where nobody listens a request is unreachable in its own time") {
    const Rig rig;
    Client client(Rig::options({rig.endpoint("nobody")}));
    auto request = rig.row.request();
    request.timeout = 20ms;
    const auto begun = Clock::now();
    CHECK_THROWS_AS(client.predict(request), Unreachable);
    CHECK_THROWS_AS(client.submit(request), Unreachable);
    CHECK(Clock::now() - begun < 1s);
    CHECK(client.inflight() == 0);
    CHECK(client.full());
    CHECK_FALSE(client.poll(0us));
}

TEST_CASE("many are in flight, answered in any order") {
    const Rig rig;
    Server server(rig.endpoint("a"));
    Client client(Rig::options({rig.endpoint("a")}));
    std::set<std::uint64_t> ids;
    for (int count = 0; count < 10; ++count) ids.insert(client.submit(rig.row.request()));
    CHECK(client.inflight() == 10);
    CHECK_FALSE(client.poll(0us));
    std::vector<Taken> taken;
    while (taken.size() < ids.size()) taken.push_back(*server.take());
    for (auto each = taken.rbegin(); each != taken.rend(); ++each) {
        server.reply(*each, scores_reply(each->id(), {static_cast<float>(each->id())}));
    }
    while (!ids.empty()) {
        const auto completion = client.poll(2s);
        CHECK(score(completion) == static_cast<float>(completion->id));
        CHECK(ids.erase(completion->id) == 1);
    }
}

TEST_CASE("a full window makes submit wait, at most the request's time") {
    const Rig rig;
    Server server(rig.endpoint("a"));
    auto options = Rig::options({rig.endpoint("a")});
    options.inflight_max = 2;
    Client client(options);
    client.submit(rig.row.request());
    CHECK_FALSE(client.full());
    client.submit(rig.row.request());
    CHECK(client.full());
    auto request = rig.row.request();
    request.timeout = 20ms;
    CHECK_THROWS_AS(client.submit(request), Timeout);
    const auto taken = *server.take();
    server.reply(taken, scores_reply(taken.id(), {0.5F}));
    client.submit(rig.row.request());
    CHECK(client.inflight() == 2);
}

TEST_CASE("a request that times out is cancelled at its server") {
    const Rig rig;
    Server server(rig.endpoint("a"));
    Client client(Rig::options({rig.endpoint("a")}));
    auto request = rig.row.request();
    request.timeout = 200ms;
    CHECK_THROWS_AS(client.predict(request), Timeout);
    const auto infer = *server.take(), cancel = *server.take();
    CHECK(infer.header[3] == 1);
    CHECK(cancel.header[3] == 4);
    CHECK(cancel.id() == infer.id());
}

TEST_CASE("a cancel is sent, and the server's word counts") {
    const Rig rig;
    Server server(rig.endpoint("a"));
    Client client(Rig::options({rig.endpoint("a")}));
    const auto id = client.submit(rig.row.request());
    client.cancel(id);
    const auto infer = *server.take();
    CHECK(server.take()->header[3] == 4);
    server.reply(infer, refusal_reply(id, Status::cancelled));
    const auto completion = client.poll(2s);
    REQUIRE(completion);
    CHECK(std::get<Failure>(completion->outcome).is(Status::cancelled));
    CHECK_THROWS_AS(std::get<Failure>(completion->outcome).raise(), Refused);
}

TEST_CASE("of two servers one is lost: the other gets what was in flight there") {
    const Rig rig;
    Server first(rig.endpoint("a")), second(rig.endpoint("b"));
    Client client(Rig::options({rig.endpoint("a"), rig.endpoint("b")}));
    // Until both are connected.
    std::optional<Taken> at_first, at_second;
    while (!at_first || !at_second) {
        const auto id = client.submit(rig.row.request());
        at_first = first.take(20ms);
        at_second = at_first ? std::nullopt : second.take(20ms);
        if (at_first) {
            client.submit(rig.row.request());
            at_second = second.take(20ms);
        }
        if (!at_first || !at_second) client.cancel(id);
    }
    first.stop();
    const auto begun = Clock::now();
    std::optional<Taken> again;
    while (!again && Clock::now() - begun < 2s) {
        client.poll(1ms);
        again = second.take(1ms);
        if (again && again->header[3] != 1) again.reset();
    }
    REQUIRE(again);
    second.reply(*again, scores_reply(again->id(), {0.25F}));
    std::optional<Completion> completion;
    while (!completion || completion->id != again->id()) completion = client.poll(2s);
    CHECK(score(completion) == 0.25F);
}

TEST_CASE("a server that comes back in time gets the request again, otherwise it is lost") {
    const Rig rig;
    Server server(rig.endpoint("a"));
    Client client(Rig::options({rig.endpoint("a")}));
    const auto id = client.submit(rig.row.request());
    CHECK(server.take()->id() == id);
    server.stop();
    CHECK_FALSE(client.poll(50ms));
    server.bind();
    CHECK_FALSE(client.poll(500ms));
    const auto again = server.take();
    REQUIRE(again);
    CHECK(again->id() == id);
    server.stop();
    const auto completion = client.poll(2s);
    REQUIRE(completion);
    CHECK(std::get<Failure>(completion->outcome).kind() == Failure::Kind::server_lost);
    CHECK(client.inflight() == 0);
}

TEST_CASE("garbage from a server harms nobody") {
    const Rig rig;
    Server server(rig.endpoint("a"));
    Client client(Rig::options({rig.endpoint("a")}));
    const auto id = client.submit(rig.row.request());
    const auto taken = *server.take();
    server.reply(taken, {""});
    server.reply(taken, {"NG\x01\x81", "x", "y", "z", "more"});
    server.reply(taken, scores_reply(id + 1, {0.1F}));
    server.reply(taken, scores_reply(id, {0.5F}));
    CHECK(score(client.poll(2s)) == 0.5F);
}

struct Keys {
    Keys() {
        zmq_curve_keypair(open.data(), secret.data());
        open.resize(40);
        secret.resize(40);
    }
    std::string file(const Folder& folder) const {
        const auto path = folder.path + "/me.key_secret";
        std::ofstream(path) << secret;
        ::chmod(path.c_str(), 0600);
        return path;
    }

    std::string open = std::string(41, '\0'), secret = std::string(41, '\0');
};

TEST_CASE("with the server's key the connection is encrypted and works") {
    const Rig rig;
    const Keys servers, mine;
    Server server(rig.endpoint("a"), servers.secret);
    auto options = Rig::options({rig.endpoint("a")});
    options.curve = Curve{servers.open, mine.file(rig.folder)};
    Client client(options);
    const auto id = client.submit(rig.row.request());
    server.reply(*server.take(), scores_reply(id, {0.5F}));
    CHECK(score(client.poll(2s)) == 0.5F);
}

TEST_CASE("a refused handshake is said at once") {
    const Rig rig;
    const Keys servers, mine;
    Server server(rig.endpoint("a"), servers.secret);
    const auto begun = Clock::now();
    auto options = Rig::options({rig.endpoint("a")});
    options.curve = Curve{mine.open, mine.file(rig.folder)};
    Client wrong(options);
    CHECK_THROWS_AS(wrong.predict(rig.row.request()), HandshakeRefused);
    CHECK(Clock::now() - begun < 1500ms);
}

TEST_CASE("to a client without keys a server that hangs up may be full, and the time-out says that it hung up") {
    const Rig rig;
    const Keys servers;
    Server server(rig.endpoint("a"), servers.secret);
    auto options = Rig::options({rig.endpoint("a")});
    options.timeout = 300ms;
    Client plain(options);
    CHECK_THROWS_WITH_AS(plain.predict(rig.row.request()), doctest::Contains("hung up"), Unreachable);
    server.stop();
    server.bind();
    while (plain.full()) plain.poll(10ms);
    CHECK(plain.submit(rig.row.request()) > 0);
}

TEST_CASE("a context that is shut down under the client closes it") {
    const Rig rig;
    auto options = Rig::options({rig.endpoint("a")});
    options.context = std::make_shared<zmq::context_t>();
    Client client(options);
    options.context->shutdown();
    CHECK_THROWS_AS(client.predict(rig.row.request()), Closed);
}

}  // namespace
}  // namespace narsil::test
