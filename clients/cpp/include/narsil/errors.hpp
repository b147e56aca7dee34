// What a request can fail with: as a value (Failure) from poll, as an exception (Error) from the blocking calls.
// Arguments that cannot be sent are a std::invalid_argument, thrown before anything is sent.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace narsil {

// The numbers are the wire contract. A status that this version does not know is read as internal.
enum class Status : std::uint8_t {
    ok = 0,
    invalid = 1,
    unsupported = 2,
    unknown_model = 3,
    too_large = 4,
    out_of_range = 5,
    not_finite = 6,
    deadline_exceeded = 7,
    would_miss = 8,
    overloaded = 9,
    draining = 10,
    unavailable = 11,
    internal = 12,
    cancelled = 13,
    unauthorized = 14,
};

inline const char* name(Status status) {
    static constexpr const char* names[] = {
        "OK",         "INVALID",    "UNSUPPORTED",       "UNKNOWN_MODEL", "TOO_LARGE",
        "OUT_OF_RANGE", "NOT_FINITE", "DEADLINE_EXCEEDED", "WOULD_MISS",    "OVERLOADED",
        "DRAINING",   "UNAVAILABLE", "INTERNAL",          "CANCELLED",     "UNAUTHORIZED",
    };
    return names[static_cast<std::uint8_t>(status)];
}

// A server's typed refusal; never ok. `detail` is one sentence for a person.
struct Refusal {
    Status status;
    std::string detail;
    std::optional<std::uint64_t> retry_after_us;
    std::optional<std::uint64_t> predicted_us;  // from receipt: when the scores would have been sent
};

// Any failure of a request.
class Error : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// No server took the request: none was there in time, or the endpoint is malformed.
class Unreachable : public Error {
    using Error::Error;
};

// A server was there and refused the handshake: its key, ours, or that one side has none. Tried again with back-off.
class HandshakeRefused : public Unreachable {
    using Unreachable::Unreachable;
};

// The server that had the request went away, and no other took it in time. It may have done the work.
class ServerLost : public Unreachable {
    using Unreachable::Unreachable;
};

// No answer came in time. The server is told to drop the request, but may have done the work.
class Timeout : public Error {
    using Error::Error;
};

// The client's ZeroMQ context was shut down under it.
class Closed : public Error {
    using Error::Error;
};

class Refused : public Error {
public:
    explicit Refused(Refusal refusal)
        : Error(std::string(name(refusal.status)) + ": " + refusal.detail), refusal_(std::move(refusal)) {}

    Status status() const { return refusal_.status; }
    const std::string& detail() const { return refusal_.detail; }
    std::optional<std::uint64_t> retry_after_us() const { return refusal_.retry_after_us; }
    std::optional<std::uint64_t> predicted_us() const { return refusal_.predicted_us; }

private:
    Refusal refusal_;
};

// A failed request as a value. `refusal` is set exactly when `kind` is refused, and then has the detail too.
class Failure {
public:
    enum class Kind : std::uint8_t { unreachable, handshake_refused, server_lost, timeout, refused };

    Failure(Refusal refusal) : kind_(Kind::refused), detail_(refusal.detail), refusal_(std::move(refusal)) {}

    static Failure unreachable(std::string detail) { return {Kind::unreachable, std::move(detail)}; }
    static Failure handshake_refused(std::string detail) { return {Kind::handshake_refused, std::move(detail)}; }
    static Failure server_lost(std::string detail) { return {Kind::server_lost, std::move(detail)}; }
    static Failure timeout(std::string detail) { return {Kind::timeout, std::move(detail)}; }

    Kind kind() const { return kind_; }
    const std::string& detail() const { return detail_; }
    const std::optional<Refusal>& refusal() const { return refusal_; }
    bool is(Status status) const { return refusal_ && refusal_->status == status; }

    // Throws the Error of this kind.
    [[noreturn]] void raise() const {
        switch (kind_) {
            case Kind::unreachable: throw Unreachable(detail_);
            case Kind::handshake_refused: throw HandshakeRefused(detail_);
            case Kind::server_lost: throw ServerLost(detail_);
            case Kind::timeout: throw Timeout(detail_);
            case Kind::refused: break;
        }
        throw Refused(*refusal_);
    }

private:
    Failure(Kind kind, std::string detail) : kind_(kind), detail_(std::move(detail)) {}

    Kind kind_;
    std::string detail_;
    std::optional<Refusal> refusal_;
};

}  // namespace narsil
