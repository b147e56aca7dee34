// What a server answers.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <msgpack.hpp>
#include <string>
#include <variant>
#include <vector>

#include "narsil/errors.hpp"

namespace narsil {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;

// Where a reply's time went at the server, in microseconds; server_us runs from receipt to reply.
struct StageTimes {
    double queue_us, fill_us, launch_us, read_us, server_us;
};

// One score per row, in the request's order, and the batch that they were computed in.
struct Scores {
    std::vector<float> scores;
    std::uint64_t bucket_rows;
    std::uint64_t rows_filled;
    StageTimes times;
    std::string version;
    std::string traceparent;  // "" is none
    std::string variant;      // of a server with several models; "" is none
    double round_trip_us;     // at the client, from submission to the reply being read
};

struct Health {
    std::string version;
    bool draining;  // it takes no new work
    std::uint64_t inflight;
    double uptime_s;
};

// `meta` is the map that PROTOCOL.md describes; it lives as long as a copy of this.
struct Metadata {
    std::string version;
    std::shared_ptr<const msgpack::object_handle> meta;
};

// How a submitted request ended, and when that was read.
struct Completion {
    std::uint64_t id;
    std::variant<Scores, Failure> outcome;
    TimePoint finished_at;
};

}  // namespace narsil
