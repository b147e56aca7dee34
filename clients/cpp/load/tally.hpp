#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "histogram.hpp"

namespace narsil::load {

constexpr std::array<const char*, 5> stage_names = {"queue", "fill", "launch", "read", "server"};

// What became of the measured requests: those that should have been sent after the warm-up. Times in nanoseconds.
struct Tally {
    std::uint64_t warm_up_requests = 0;
    std::uint64_t intended = 0;
    std::uint64_t sent = 0;
    // Of these, the ones that were due while no connection had room in its window.
    std::uint64_t held = 0;
    std::uint64_t scored = 0;
    std::uint64_t unsent = 0;
    // Refused requests by status, and failed ones by kind of failure.
    std::map<std::string, std::uint64_t> refused;
    std::map<std::string, std::uint64_t> failed;
    // What the first of either said; "" is none.
    std::string complaint;
    // Scores that came while the run was measured, whenever their requests should have been sent: throughput.
    std::uint64_t scored_in_time = 0;
    std::uint64_t rows_in_time = 0;

    // From when it should have been sent to its scores, or to when it was given up: all but refused requests.
    Histogram latency;
    // From when it should have been sent to its refusal.
    Histogram refusal;
    // From when it was sent to its scores.
    Histogram round_trip;
    // From when it should have been sent to when it was.
    Histogram lateness;
    // As replies tell them.
    std::array<Histogram, stage_names.size()> stages;

    void add(const Tally& other) {
        warm_up_requests += other.warm_up_requests;
        intended += other.intended;
        sent += other.sent;
        held += other.held;
        scored += other.scored;
        unsent += other.unsent;
        for (const auto& [name, count] : other.refused) refused[name] += count;
        for (const auto& [name, count] : other.failed) failed[name] += count;
        if (complaint.empty()) complaint = other.complaint;
        scored_in_time += other.scored_in_time;
        rows_in_time += other.rows_in_time;
        latency.add(other.latency);
        refusal.add(other.refusal);
        round_trip.add(other.round_trip);
        lateness.add(other.lateness);
        for (std::size_t stage = 0; stage < stages.size(); ++stage) stages[stage].add(other.stages[stage]);
    }
};

}  // namespace narsil::load
