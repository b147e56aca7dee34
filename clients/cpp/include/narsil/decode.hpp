// Frames to replies: every fault in them is a WireError, whatever the bytes.
#pragma once

#include "narsil/wire.hpp"

namespace narsil::wire {

namespace detail {

inline StageTimes stage_times(const Fields& fields) {
    const auto* times = fields.find("us");
    if (times == nullptr || times->type != msgpack::type::ARRAY || times->via.array.size != 5) {
        Fields::fail("us", "5 numbers");
    }
    const auto at = [&](std::uint32_t index) {
        const auto& time = times->via.array.ptr[index];
        if (time.type != msgpack::type::FLOAT64) Fields::fail("us", "float64 numbers");
        return time.via.f64;
    };
    return {at(0), at(1), at(2), at(3), at(4)};
}

inline Scores scores(const std::string& version, const Fields& fields, std::string_view frame) {
    if (frame.size() % sizeof(float) != 0) throw WireError("scores want a multiple of 4 bytes");
    std::vector<float> values(frame.size() / sizeof(float));
    if (!values.empty()) std::memcpy(values.data(), frame.data(), frame.size());
    const auto traceparent = fields.optional_text("tp"), variant = fields.optional_text("variant");
    const auto bucket_rows = fields.uint("b"), rows_filled = fields.uint("f");
    return {std::move(values), bucket_rows, rows_filled, stage_times(fields), version,
            traceparent.value_or(""), variant.value_or(""), 0};
}

inline Refusal refusal_of(std::uint64_t status, const Fields& fields) {
    auto detail = fields.text("e");
    if (status > static_cast<std::uint64_t>(Status::unauthorized)) {
        detail = "status " + std::to_string(status) + ": " + detail;
        status = static_cast<std::uint64_t>(Status::internal);
    }
    return {static_cast<Status>(status), std::move(detail), fields.optional_uint("retry"), fields.optional_uint("eta")};
}

inline Health health(const std::string& version, const Fields& fields) {
    const auto state = fields.text("state");
    if (state != "ready" && state != "draining") Fields::fail("state", "ready or draining");
    return {version, state == "draining", fields.uint("inflight"), fields.float64("uptime_s")};
}

inline Metadata metadata(const std::string& version, std::string_view map) {
    auto copy = std::make_shared<msgpack::object_handle>(narsil::detail::unpack(map, true));
    const auto* meta = Fields(copy->get()).find("meta");
    if (meta == nullptr || meta->type != msgpack::type::MAP) Fields::fail("meta", "a map");
    copy->set(*meta);
    return {version, std::move(copy)};
}

}  // namespace detail

// The reply in these frames. Throws WireError on anything else, and nothing on any bytes besides.
// A status that this version does not know becomes internal, its number in the detail.
inline Reply decode_reply(const std::vector<std::string_view>& frames) {
    const auto header = frames.empty() ? std::string_view() : frames[0];
    if (header.size() < 4 || header.substr(0, 3) != detail::magic) {
        throw WireError("want the header of a version 1 reply");
    }
    const auto kind = static_cast<std::uint8_t>(header[3]);
    const auto reply_to = static_cast<Operation>(kind & ~detail::reply_bit);
    const bool known = kind == detail::refusal || reply_to == Operation::infer || reply_to == Operation::health ||
                       reply_to == Operation::metadata || reply_to == Operation::attach;
    if ((kind & detail::reply_bit) == 0 || !known) throw WireError("no reply has this operation");
    const std::size_t wanted = reply_to == Operation::infer ? 2 : 1;
    if (frames.size() != wanted) throw WireError("a reply with a wrong number of frames");

    const auto map = header.substr(4);
    const auto object = narsil::detail::unpack(map, false);
    const detail::Fields fields(object.get());
    const auto id = fields.uint("id");
    const auto version = fields.text("v");
    const auto status = fields.uint("s");
    if ((status == 0) == (kind == detail::refusal)) throw WireError("the status does not go with the operation");
    const auto window = fields.optional_uint("w");
    if (window == std::uint64_t{0}) detail::Fields::fail("w", "at least 1");
    if (kind == detail::refusal) return {id, version, window, detail::refusal_of(status, fields)};
    if (reply_to == Operation::infer) return {id, version, window, detail::scores(version, fields, frames[1])};
    if (reply_to == Operation::attach) return {id, version, window, Attached{fields.uint("seg")}};
    if (reply_to == Operation::health) return {id, version, window, detail::health(version, fields)};
    return {id, version, window, detail::metadata(version, map)};
}

}  // namespace narsil::wire
