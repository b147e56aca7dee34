#pragma once

#include <string>

#include "inputs.hpp"
#include "settings.hpp"
#include "tally.hpp"

namespace narsil::load {

struct Outcome {
    Shape shape;
    // Of the served model, as the server tells it.
    std::string version;
    Tally tally;
};

// Asks the server, connects, loads it from `settings.threads` threads, and adds up. Throws Error.
Outcome run(const Settings& settings);

}  // namespace narsil::load
