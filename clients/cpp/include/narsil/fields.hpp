// The msgpack map of a reply's header, read strictly: every fault is a WireError, whatever the bytes.
#pragma once

#include <cstdint>
#include <msgpack.hpp>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace narsil {

// Bytes that are no message of this protocol. The text is one sentence. Never leaves the client.
class WireError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

namespace detail {

inline constexpr std::size_t reply_header_bytes_max = 1 << 20;

// msgpack-cxx allocates an array at the length that it claims, and nested ones each in turn: these bound that at
// 16 x 16384 x 48 bytes = 12 MiB. No served model has a list of this length, nor such a depth.
inline constexpr std::size_t entries_max = 16384;
inline constexpr std::size_t depth_max = 16;

inline bool is_utf8(std::string_view text) {
    for (std::size_t i = 0; i < text.size();) {
        const auto byte = [&](std::size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0U; };
        const auto lead = byte(i);
        if ((lead >= 0x80 && lead < 0xc2) || lead >= 0xf5) return false;
        const std::size_t more = lead < 0x80 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
        const auto next = byte(i + 1);
        // The first continuation byte of these leads is narrower: overlong forms, surrogates, beyond U+10FFFF.
        if ((lead == 0xe0 && next < 0xa0) || (lead == 0xed && next > 0x9f)) return false;
        if ((lead == 0xf0 && next < 0x90) || (lead == 0xf4 && next > 0x8f)) return false;
        for (std::size_t k = 1; k <= more; ++k) {
            if ((byte(i + k) & 0xc0U) != 0x80U) return false;
        }
        i += more + 1;
    }
    return true;
}

// The one object in these bytes. With `keep` its strings are copies, otherwise they point into `bytes`.
inline msgpack::object_handle unpack(std::string_view bytes, bool keep) {
    if (bytes.size() > reply_header_bytes_max) {
        throw WireError("the header has " + std::to_string(bytes.size()) + " bytes");
    }
    const msgpack::unpack_limit limit(entries_max, entries_max, bytes.size(), bytes.size(), bytes.size(), depth_max);
    const auto in_place = [](msgpack::type::object_type, std::size_t, void*) { return true; };
    const msgpack::unpack_reference_func refer = keep ? nullptr : +in_place;
    msgpack::object_handle object;
    std::size_t end = 0;
    try {
        msgpack::unpack(object, bytes.data(), bytes.size(), end, refer, nullptr, limit);
    } catch (const msgpack::unpack_error& error) {
        throw WireError(std::string("the header is not msgpack: ") + error.what());
    }
    if (end != bytes.size()) throw WireError("bytes follow the header's map");
    return object;
}

// A map's fields by name; of a name that comes twice, the last counts.
class Fields {
public:
    explicit Fields(const msgpack::object& object) : map_(object.via.map) {
        if (object.type != msgpack::type::MAP) throw WireError("the header wants a map");
        for (const auto& entry : map_) {
            if (entry.key.type != msgpack::type::STR && entry.key.type != msgpack::type::BIN) {
                throw WireError("the header wants strings for keys");
            }
        }
    }

    const msgpack::object* find(std::string_view key) const {
        const msgpack::object* found = nullptr;
        for (const auto& entry : map_) {
            if (entry.key.type != msgpack::type::STR) continue;
            const auto& name = entry.key.via.str;
            if (std::string_view(name.ptr, name.size) == key) found = &entry.val;
        }
        return found;
    }

    std::optional<std::uint64_t> optional_uint(const char* key) const {
        const auto* value = find(key);
        if (value == nullptr) return std::nullopt;
        if (value->type != msgpack::type::POSITIVE_INTEGER) fail(key, "an unsigned integer");
        return value->via.u64;
    }

    std::optional<std::string> optional_text(const char* key) const {
        const auto* value = find(key);
        if (value == nullptr) return std::nullopt;
        if (value->type != msgpack::type::STR) fail(key, "a string");
        const std::string_view text(value->via.str.ptr, value->via.str.size);
        if (!is_utf8(text)) fail(key, "UTF-8");
        return std::string(text);
    }

    std::uint64_t uint(const char* key) const {
        const auto value = optional_uint(key);
        if (!value) fail(key, "an unsigned integer");
        return *value;
    }

    std::string text(const char* key) const {
        auto value = optional_text(key);
        if (!value) fail(key, "a string");
        return *std::move(value);
    }

    double float64(const char* key) const {
        const auto* value = find(key);
        if (value == nullptr || value->type != msgpack::type::FLOAT64) fail(key, "a float64");
        return value->via.f64;
    }

    [[noreturn]] static void fail(const char* key, const char* wanted) {
        throw WireError(std::string("'") + key + "' wants " + wanted);
    }

private:
    msgpack::object_map map_;
};

}  // namespace detail
}  // namespace narsil
