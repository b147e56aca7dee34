#pragma once

#include <cstdint>
#include <random>

#include "sizes.hpp"

namespace narsil::load {

enum class Arrivals { poisson, fixed };

// When one thread's share of the requests should be sent, in nanoseconds from the start, whatever becomes of them.
//
// Threads with a Poisson process each add up to one of the whole rate; threads with fixed arrivals take turns.
class Schedule {
public:
    // `rate_per_s` is that of all `threads` together; this is the one of index `thread`.
    Schedule(Arrivals arrivals, double rate_per_s, std::uint32_t thread, std::uint32_t threads, std::uint64_t seed)
        : arrivals_(arrivals),
          rate_per_s_(rate_per_s),
          threads_(threads),
          number_(thread),
          gap_(rate_per_s / threads),
          random_(seed) {
        next_s_ = next_s();
    }

    std::uint64_t next_ns() const { return static_cast<std::uint64_t>(next_s_ * 1e9); }

    void advance() {
        number_ += threads_;
        next_s_ = next_s();
    }

private:
    // Fixed arrivals are counted, for gaps added up would drift.
    double next_s() {
        return arrivals_ == Arrivals::fixed ? static_cast<double>(number_) / rate_per_s_ : next_s_ + gap_(random_);
    }

    Arrivals arrivals_;
    double rate_per_s_;
    std::uint32_t threads_;
    std::uint64_t number_;
    std::exponential_distribution<double> gap_;
    double next_s_ = 0.0;
    Random random_;
};

}  // namespace narsil::load
