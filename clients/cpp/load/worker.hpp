#pragma once

#include <poll.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "inputs.hpp"
#include "narsil/client.hpp"
#include "schedule.hpp"
#include "settings.hpp"
#include "tally.hpp"

namespace narsil::load {

// What a connection of the settings is; several share one ZeroMQ context.
Options client_options(const Settings& settings, std::shared_ptr<zmq::context_t> context);

// One thread's share of the connections, all driven by the thread that calls `run`.
class Worker {
public:
    // Connects, and waits for every connection's server to answer. Throws Error where one does not.
    Worker(const Settings& settings, const Inputs& inputs, std::uint32_t index);

    // Sends what is to be sent from `start` on, and waits for the answers: what became of it, or why it failed.
    std::variant<Tally, std::string> run(TimePoint start) noexcept;

private:
    struct Sent {
        std::int64_t intended_ns;
        std::int64_t sent_ns;
        std::uint32_t rows;
    };

    struct Connection {
        std::unique_ptr<Client> client;
        std::unordered_map<std::uint64_t, Sent> sent;
    };

    std::int64_t since_start_ns(TimePoint when) const;
    std::int64_t next_ns() const { return static_cast<std::int64_t>(schedule_.next_ns()); }
    bool more_due() const { return !settings_.closed && next_ns() < end_ns_; }

    void send_open(std::int64_t now_ns);
    void send_closed(std::int64_t now_ns);
    void submit(Connection& connection, std::int64_t intended_ns);
    Connection* with_room();
    bool receive();
    void finish(Connection& connection, const Completion& completion);
    void count_scores(const Sent& sent, const Scores& scores, std::int64_t finished_ns);
    bool over(std::int64_t now_ns) const;
    void sleep();
    void count_unsent();

    const Settings& settings_;
    const Inputs& inputs_;
    Schedule schedule_;
    Random random_;
    std::vector<Connection> connections_;
    std::size_t turn_ = 0;
    // When no connection was last found to have room.
    std::int64_t full_ns_ = -1;
    std::vector<pollfd> descriptors_;
    TimePoint start_;
    std::int64_t warm_ns_;
    std::int64_t end_ns_;
    std::int64_t give_up_ns_;
    Tally tally_;
};

}  // namespace narsil::load
