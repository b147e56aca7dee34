#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "inputs.hpp"
#include "schedule.hpp"
#include "sizes.hpp"

namespace narsil::load {

// A command line that cannot be run; the message is one sentence.
class UsageError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// One run, as the command line asks for it.
struct Settings {
    std::vector<std::string> endpoints;
    // Requests a second over all connections; 0 is the closed loop.
    double rate_per_s = 0.0;
    // Closed loop: requests that each connection keeps in flight.
    std::uint32_t closed = 0;
    Arrivals arrivals = Arrivals::poisson;
    std::uint32_t connections = 1;
    std::uint32_t threads = 1;
    // Open loop: requests that one connection may leave unanswered.
    std::uint32_t window = 64;
    std::string sizes_text = "constant:100";
    Sizes sizes = ConstantSize{100};
    // Of the requests; absent is what METADATA tells.
    std::optional<Shape> shape;
    std::string model;
    std::optional<std::uint64_t> deadline_us;
    bool bulk = false;
    std::uint64_t seed = 0;
    double warm_up_s = 1.0;
    double duration_s = 10.0;
    std::uint32_t timeout_ms = 5000;
    std::string server_key;
    std::string secret_key;
    // A file, "-" for standard output, or "" for none.
    std::string json;
};

// Reads the command line. Nothing where help was asked for, and printed. Raises UsageError.
std::optional<Settings> parse_settings(int count, const char* const* arguments);

}  // namespace narsil::load
