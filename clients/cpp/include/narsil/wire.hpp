// Values to frames and frames to values, with no socket: transport/PROTOCOL.md in C++.
#pragma once

#include <cstring>
#include <msgpack.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>
#include <zmq.hpp>

#include "narsil/fields.hpp"
#include "narsil/replies.hpp"
#include "narsil/request.hpp"

namespace narsil::wire {

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensors travel little-endian and are copied as they are: this host is not"
#endif
static_assert(sizeof(float) == 4 && sizeof(double) == 8, "tensors are IEEE floats");

// message_t is used as a buffer that is copied by counting references: a call keeps its frames for a retry.
using Message = std::vector<zmq::message_t>;

enum class Operation : std::uint8_t { infer = 1, health = 2, metadata = 3, cancel = 4, attach = 6 };

inline constexpr std::size_t traceparent_chars_max = 64;
inline constexpr std::size_t key_bytes_max = 64;
inline constexpr std::size_t request_header_bytes_max = 4096;
// One more than any reply has, so that a message with too many is told apart.
inline constexpr std::size_t reply_frames_max = 3;

// Shared memory is attached as this segment. This client attaches none: it reads the reply as every implementation
// does.
struct Attached {
    std::uint64_t segment;
};

// A decoded reply. `version` is in the body too where the body is given to the caller as it is.
struct Reply {
    std::uint64_t id;
    std::string version;
    std::optional<std::uint64_t> window;
    std::variant<Scores, Refusal, Health, Metadata, Attached> body;
};

namespace detail {

using narsil::detail::Fields;

inline constexpr std::string_view magic = "NG\x01";
inline constexpr std::uint8_t reply_bit = 0x80;
inline constexpr std::uint8_t refusal = reply_bit;

struct Header {
    std::string bytes;
    void write(const char* data, std::size_t size) { bytes.append(data, size); }

    zmq::message_t frame() const { return zmq::message_t(bytes.data(), bytes.size()); }
};

using Packer = msgpack::packer<Header>;

inline Header started(Operation operation) {
    return {std::string(magic) + static_cast<char>(operation)};
}

inline void pack_text(Packer& packer, std::string_view text) {
    packer.pack_str(static_cast<std::uint32_t>(text.size()));
    packer.pack_str_body(text.data(), static_cast<std::uint32_t>(text.size()));
}

inline void pack_mask(Packer& packer, const std::string& mask) {
    packer.pack_bin(static_cast<std::uint32_t>(mask.size()));
    packer.pack_bin_body(mask.data(), static_cast<std::uint32_t>(mask.size()));
}

inline const char* dtype(const View<float>&) { return "f4"; }
inline const char* dtype(const View<std::int32_t>&) { return "i4"; }
inline const char* dtype(const View<std::int64_t>&) { return "i8"; }

struct Tensor {
    const char* name;
    const char* dtype;
    std::vector<std::size_t> shape;
    const void* data;
    std::size_t size_bytes;
};

template <typename T>
Tensor tensor(const char* name, View<T> view, std::vector<std::size_t> shape) {
    return {name, dtype(view), std::move(shape), view.data(), view.size() * sizeof(T)};
}

inline Tensor tensor(const char* name, const Ids& ids, std::vector<std::size_t> shape) {
    return std::visit([&](const auto& view) { return tensor(name, view, std::move(shape)); }, ids);
}

// The tensors in the order of the wire: the rows' own, then the user's.
inline std::vector<Tensor> tensors_of(const Request& request) {
    const auto& own = request.features;
    const auto n = own.rows();
    std::vector<Tensor> tensors{tensor("dense", own.dense(), {n, own.dense_width()})};
    if (own.lengths()) {
        tensors.push_back(tensor("lengths", *own.lengths(), {n, own.features()}));
        tensors.push_back(tensor("values", own.ids(), {size(own.ids())}));
    } else {
        tensors.push_back(tensor("ids", own.ids(), {n, own.features()}));
    }
    if (request.user == nullptr) return tensors;
    const auto& user = *request.user;
    tensors.push_back(tensor("user_dense", user.dense(), {user.dense().size()}));
    if (user.lengths()) {
        tensors.push_back(tensor("user_lengths", *user.lengths(), {user.user_features()}));
        tensors.push_back(tensor("user_values", user.ids(), {size(user.ids())}));
    } else {
        tensors.push_back(tensor("user_ids", user.ids(), {user.user_features()}));
    }
    return tensors;
}

inline void check(const Request& request) {
    auto width = request.features.dense_width();
    auto features = request.features.features();
    if (const auto* user = request.user) {
        width += user->dense().size();
        features += user->user_features();
        if (width != user->dense_width() || features != user->features()) {
            throw std::invalid_argument("the user's masks are of " + std::to_string(user->dense_width()) +
                                        " columns and " + std::to_string(user->features()) + " features, given are " +
                                        std::to_string(width) + " and " + std::to_string(features));
        }
    }
    if (width == 0 || features == 0) throw std::invalid_argument("want at least one dense column and one feature");
    if (request.deadline_us == std::uint64_t{0}) throw std::invalid_argument("want deadline_us of at least 1");
    if (request.traceparent.size() > traceparent_chars_max) {
        throw std::invalid_argument("want a traceparent of at most 64 characters");
    }
    if (request.key.size() > key_bytes_max) throw std::invalid_argument("want a key of at most 64 bytes");
    for (const auto* text : {&request.model, &request.traceparent, &request.key}) {
        if (!narsil::detail::is_utf8(*text)) throw std::invalid_argument("want model, traceparent and key in UTF-8");
    }
}

inline void pack_tensors(Packer& packer, const std::vector<Tensor>& tensors) {
    pack_text(packer, "t");
    packer.pack_array(static_cast<std::uint32_t>(tensors.size()));
    for (const auto& tensor : tensors) {
        packer.pack_array(3);
        pack_text(packer, tensor.name);
        pack_text(packer, tensor.dtype);
        packer.pack_array(static_cast<std::uint32_t>(tensor.shape.size()));
        for (const auto extent : tensor.shape) packer.pack(static_cast<std::uint64_t>(extent));
    }
}

inline Header infer_header(std::uint64_t id, const Request& request, const std::vector<Tensor>& tensors) {
    auto header = started(Operation::infer);
    Packer packer(header);
    const bool bulk = request.priority == Priority::bulk;
    packer.pack_map(2U + !request.model.empty() + request.deadline_us.has_value() + !request.traceparent.empty() +
                    bulk + !request.key.empty() + (request.user != nullptr));
    pack_text(packer, "id");
    packer.pack(id);
    if (!request.model.empty()) {
        pack_text(packer, "m");
        pack_text(packer, request.model);
    }
    if (request.deadline_us) {
        pack_text(packer, "d");
        packer.pack(*request.deadline_us);
    }
    if (!request.traceparent.empty()) {
        pack_text(packer, "tp");
        pack_text(packer, request.traceparent);
    }
    if (bulk) {
        pack_text(packer, "p");
        packer.pack(1);
    }
    if (!request.key.empty()) {
        pack_text(packer, "k");
        pack_text(packer, request.key);
    }
    if (request.user != nullptr) {
        pack_text(packer, "u");
        packer.pack_array(2);
        pack_mask(packer, request.user->dense_mask());
        pack_mask(packer, request.user->feature_mask());
    }
    pack_tensors(packer, tensors);
    return header;
}

}  // namespace detail

// The frames of an INFER. Throws std::invalid_argument, in one sentence, where the request cannot be sent.
inline Message encode_request(std::uint64_t id, const Request& request) {
    detail::check(request);
    const auto tensors = detail::tensors_of(request);
    const auto header = detail::infer_header(id, request, tensors);
    if (header.bytes.size() > request_header_bytes_max) throw std::invalid_argument("the model's name is too long");
    Message message;
    message.reserve(1 + tensors.size());
    message.push_back(header.frame());
    for (const auto& tensor : tensors) message.emplace_back(tensor.data, tensor.size_bytes);
    return message;
}

// The only frame of a HEALTH, METADATA or CANCEL; the CANCEL of an INFER has its id.
inline zmq::message_t encode_bare(std::uint64_t id, Operation operation) {
    auto header = detail::started(operation);
    detail::Packer packer(header);
    packer.pack_map(1);
    detail::pack_text(packer, "id");
    packer.pack(id);
    return header.frame();
}

}  // namespace narsil::wire
