// The client of narsil-graph: `narsil::Client`. Including this is all that is needed.
#pragma once

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "narsil/dealer.hpp"
#include "narsil/model_shape.hpp"
#include "narsil/session.hpp"

namespace narsil {

struct Options {
    std::vector<std::string> endpoints;            // replicas of one model; they need not exist yet
    std::chrono::microseconds timeout{5'000'000};  // of a request that names none
    std::size_t inflight_max = 64;                 // in all; a server that grants fewer has fewer
    std::optional<Curve> curve{};
    std::chrono::milliseconds keep_warm{0};     // heartbeats this often keep both ends' idle threads awake; 0 is off
    std::shared_ptr<zmq::context_t> context{};  // to share I/O threads with other clients; null is one of its own
};

// Asks servers for scores. Starts to connect at once, disconnects when it is destroyed; what is in flight is then
// dropped. Not thread-safe: one client per thread. It has no thread of its own: replies are read, time-outs noticed and
// lost requests sent again while one of its functions runs.
//
// Every request ends within its time-out, in a result or an Error: from `predict`, `health` and `metadata` and, for
// what has not been sent, from `submit` as an exception; from `poll` as a value. Requests go to the connected server
// with the least outstanding. What was in flight at a server that is lost is sent to another, once.
class Client {
public:
    // Throws std::invalid_argument where the options cannot be, Unreachable where an endpoint is malformed.
    explicit Client(Options options);

    // Scores n rows, waiting for them.
    Scores predict(const Request& request);

    // Sends the request, waiting only for room and for a server, and returns the id that its Completion will have.
    std::uint64_t submit(const Request& request);

    // The next submitted request that has ended, waiting at most `wait` for one.
    std::optional<Completion> poll(std::chrono::microseconds wait);

    // Asks the server that has it to drop it: it is completed with a refusal, Status::cancelled, or with its scores if
    // it was launched already. Does nothing once it has ended.
    void cancel(std::uint64_t id);

    // Of the next connected server in turn.
    Health health();
    Metadata metadata();

    // Submitted requests that have not ended.
    std::size_t inflight() const { return session_.inflight(); }

    // Whether `submit` would wait now: for room, or for a server.
    bool full() const { return session_.full() || !session_.fleet().any_room(); }

    // For a thread that drives several clients: what to wait for with poll(2), for reading, after `poll(0us)` has
    // returned nothing. They change with every call. Time-outs and reconnections need a `poll` now and then even so.
    std::vector<int> descriptors() const;

private:
    static constexpr std::chrono::milliseconds heartbeat{1000};
    // 11 days: far beyond any use, and inside a clock's range.
    static constexpr std::chrono::seconds timeout_max{1'000'000};
    static constexpr std::size_t inflight_limit = 1'000'000;
    // So that a server that never stops talking cannot keep a time-out from being noticed.
    static constexpr std::size_t messages_per_turn = 4096;

    static Options checked(Options options);
    static detail::DealerSettings settings(const Options& options);
    TimePoint expiry(std::optional<std::chrono::microseconds> timeout, TimePoint now) const;
    std::uint64_t start(const Request& request);
    template <typename Result>
    Result ask(wire::Operation control);
    template <typename Result>
    Result await(std::uint64_t id);

    void turn(TimePoint until);
    bool place(TimePoint now);
    bool read(TimePoint now);
    bool read(std::size_t index, TimePoint now);
    bool follow(std::size_t index, TimePoint now);
    void on(const detail::ConnectionEvent& event, std::size_t index, TimePoint now);
    void reconnect(TimePoint now);
    bool sleep(TimePoint until, TimePoint now);
    void send(const detail::Cancel& cancel);

    Options options_;
    detail::Session session_;
    std::vector<detail::Dealer> dealers_;  // one per endpoint
    // Kept for their memory.
    wire::Message frames_;
    std::vector<std::string_view> views_;
};

}  // namespace narsil

#include "narsil/client_impl.hpp"
