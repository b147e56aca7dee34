#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "inputs.hpp"
#include "settings.hpp"
#include "tally.hpp"

namespace narsil::load {

// The result, with the keys that README.md describes, in that order.
nlohmann::ordered_json to_json(const Settings& settings, const Shape& shape, const std::string& version,
                               const Tally& tally);

// The same in a few lines for a person, made from that JSON.
std::string to_text(const nlohmann::ordered_json& result);

}  // namespace narsil::load
