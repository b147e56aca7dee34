#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <system_error>

namespace narsil::load {

// A bound of what can be asked for, far above what a server takes: it keeps the pool of inputs within memory.
constexpr std::uint32_t request_rows_max = 1U << 20;

// The whole text as an integer from 1 to `most`.
inline std::optional<std::uint32_t> whole(const std::string& text, std::uint32_t most) {
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || value < 1 || value > most) return std::nullopt;
    return value;
}

// The whole text as a finite number of at least 0.
inline std::optional<double> real(const std::string& text) {
    double value = 0.0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value) || value < 0) return {};
    return value;
}

}  // namespace narsil::load
