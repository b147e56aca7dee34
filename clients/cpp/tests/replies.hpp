// Replies as a server writes them.
#pragma once

#include <msgpack.hpp>
#include <optional>
#include <string>
#include <vector>

#include "narsil/client.hpp"

namespace narsil::test {

using Frames = std::vector<std::string>;

inline std::vector<std::string_view> views(const Frames& frames) { return {frames.begin(), frames.end()}; }

class ReplyHeader {
public:
    ReplyHeader(char operation, std::uint32_t entries, std::uint64_t id, int status) {
        start_ = std::string("NG\x01") + operation;
        packer_.pack_map(entries + 3);
        with("id", id).with("s", status).with("v", std::string("v1"));
    }

    template <typename T>
    ReplyHeader& with(const char* key, const T& value) {
        packer_.pack(key);
        packer_.pack(value);
        return *this;
    }

    std::string bytes() const { return start_ + std::string(buffer_.data(), buffer_.size()); }

private:
    std::string start_;
    msgpack::sbuffer buffer_;
    msgpack::packer<msgpack::sbuffer> packer_{buffer_};
};

inline Frames scores_reply(std::uint64_t id, const std::vector<float>& scores, std::uint64_t window = 64) {
    ReplyHeader header('\x81', 4, id, 0);
    // No whole numbers: msgpack-cxx would pack them as integers.
    header.with("b", 8).with("f", 2).with("us", std::vector<double>{1.5, 2.5, 3.5, 4.5, 5.5}).with("w", window);
    return {header.bytes(), std::string(reinterpret_cast<const char*>(scores.data()), 4 * scores.size())};
}

inline Frames refusal_reply(std::uint64_t id, Status status, const std::string& detail = "no") {
    return {ReplyHeader('\x80', 1, id, static_cast<int>(status)).with("e", detail).bytes()};
}

inline Frames health_reply(std::uint64_t id) {
    ReplyHeader header('\x82', 3, id, 0);
    return {header.with("state", std::string("ready")).with("inflight", 3).with("uptime_s", 1.5).bytes()};
}

// One row of two columns and one feature: its scores are one.
class OneRow {
public:
    Request request() const { return Features::one_hot(1, dense_, ids_); }

private:
    std::vector<float> dense_{0.5F, 1.0F};
    std::vector<std::int64_t> ids_{3};
};

}  // namespace narsil::test
