// One request of a client, from `begin` until it is done.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <variant>

#include "narsil/wire.hpp"

namespace narsil::detail {

using Outcome = std::variant<Scores, Health, Metadata, Failure>;

// While `server` is empty it waits for one that takes it. `setback` is why its first server did not answer it: what it
// fails with if no second one does. That is any but `avoid`, if it is to be sent before `retry_by`.
struct Call {
    wire::Operation operation;
    std::size_t rows;
    wire::Message frames;
    TimePoint begun, expires, retry_by;
    std::optional<std::size_t> server{};
    std::optional<std::size_t> avoid{};
    std::optional<Failure> setback{};
    bool cancelled = false;

    // It asks about a server: it fills no place in its window, and cannot be cancelled.
    bool control() const { return operation != wire::Operation::infer; }
    bool sent() const { return server || setback; }
};

struct Finished {
    std::uint64_t id;
    Outcome outcome;
    TimePoint at;
    bool sent;  // at least once
};

// A CANCEL to send: inference `id` at `server`.
struct Cancel {
    std::size_t server;
    std::uint64_t id;
};

// A server counts a deadline anew when it is sent to a second one; the caller does not.
inline TimePoint retry_by(const Request& request, TimePoint now, TimePoint expires) {
    const auto left = std::chrono::duration_cast<std::chrono::microseconds>(expires - now).count();
    const bool later = !request.deadline_us || *request.deadline_us >= static_cast<std::uint64_t>(left);
    return later ? expires : now + std::chrono::microseconds(*request.deadline_us);
}

// What `reply` brings to `call`, which waited until `now`; a sentence where it is none for such a call.
inline std::variant<Outcome, std::string> result(const Call& call, wire::Reply reply, TimePoint now) {
    if (auto* scores = std::get_if<Scores>(&reply.body); scores != nullptr && !call.control()) {
        if (scores->scores.size() != call.rows) {
            return std::to_string(scores->scores.size()) + " scores for " + std::to_string(call.rows) + " rows";
        }
        scores->round_trip_us = std::chrono::duration<double, std::micro>(now - call.begun).count();
        return Outcome(std::move(*scores));
    }
    auto* health = std::get_if<Health>(&reply.body);
    if (health != nullptr && call.operation == wire::Operation::health) return Outcome(std::move(*health));
    auto* metadata = std::get_if<Metadata>(&reply.body);
    if (metadata != nullptr && call.operation == wire::Operation::metadata) return Outcome(std::move(*metadata));
    return std::string("a reply to another kind of request");
}

}  // namespace narsil::detail
