// The DEALER socket to one server, with its monitor: with client.hpp the only code here that knows sockets.
#pragma once

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "narsil/curve.hpp"
#include "narsil/errors.hpp"
#include "narsil/wire.hpp"

namespace narsil::detail {

struct DealerSettings {
    int messages_max;  // in each direction
    std::chrono::milliseconds heartbeat;
    std::optional<CurveKeys> keys;
};

// What became of the connection. `why` its handshake failed, and whether that was the server's last word.
struct ConnectionEvent {
    enum class Kind { up, down, failed } kind;
    std::string why{};
    bool final = false;
};

// A signal interrupts even what does not wait.
template <typename Work>
auto uninterrupted(const Work& work) {
    while (true) {
        try {
            return work();
        } catch (const zmq::error_t& error) {
            if (error.num() != EINTR) throw;
        }
    }
}

// Whole messages out and in without blocking, from `open` until its connection has ended: then it is to be opened anew.
class Dealer {
public:
    Dealer(std::shared_ptr<zmq::context_t> context, std::string endpoint, DealerSettings settings)
        : context_(std::move(context)), endpoint_(std::move(endpoint)), settings_(std::move(settings)) {}
    ~Dealer() { close(); }
    Dealer(Dealer&&) = default;
    Dealer& operator=(Dealer&&) = delete;

    bool is_open() const { return socket_.handle() != nullptr; }

    // Throws Unreachable where the endpoint is malformed.
    void open() {
        socket_ = zmq::socket_t(*context_, zmq::socket_type::dealer);
        configure();
        watch();
        try {
            socket_.connect(endpoint_);
        } catch (const zmq::error_t& error) {
            close();
            throw Unreachable("cannot connect to '" + endpoint_ + "': " + error.what());
        }
    }

    // Drops what is queued.
    void close() {
        if (!is_open()) return;
        zmq_socket_monitor(socket_.handle(), nullptr, 0);
        monitor_.close();
        socket_.close();
    }

    // False where there is no room, or no connection.
    bool send(wire::Message& frames) {
        if (!send(frames[0], frames.size() > 1)) {
            // libzmq looks only now and then whether there is room again, unless it is asked.
            if ((events() & ZMQ_POLLOUT) == 0 || !send(frames[0], frames.size() > 1)) return false;
        }
        // With the first frame accepted, libzmq takes the rest, or none of it if the connection ends meanwhile: then
        // what is left would be a message of its own to the next connection.
        for (std::size_t index = 1; index < frames.size(); ++index) {
            if (!send(frames[index], index + 1 < frames.size())) break;
        }
        return true;
    }

    // The next message, cut to as many frames as tell a reply from what is none; false where there is none.
    bool receive(wire::Message& frames) {
        frames.clear();
        for (bool more = true; more;) {
            zmq::message_t frame;
            if (!receive(socket_, frame)) return false;
            more = frame.more();
            if (frames.size() < wire::reply_frames_max) frames.push_back(std::move(frame));
        }
        return true;
    }

    // The next thing that happened to the connection, in order.
    std::optional<ConnectionEvent> next_event() {
        while (true) {
            zmq::message_t event;
            zmq::message_t address;
            if (!receive(monitor_, event)) return std::nullopt;
            if (!receive(monitor_, address) || event.size() != 6) continue;
            std::uint16_t kind = 0;
            std::uint32_t value = 0;
            std::memcpy(&kind, event.data(), sizeof kind);
            std::memcpy(&value, event.data<char>() + sizeof kind, sizeof value);
            if (auto known = meaning(kind, value)) return known;
        }
    }

    // What `send` and `receive` would find: ZMQ_POLLOUT for room, ZMQ_POLLIN for a message.
    int events() const {
        return uninterrupted([&] { return socket_.get(zmq::sockopt::events); });
    }

    // Readable when there may be a message, or room again, or an event. Edge-triggered: look for them before waiting.
    int fd() const { return socket_.get(zmq::sockopt::fd); }
    int event_fd() const { return monitor_.get(zmq::sockopt::fd); }

private:
    // A server that answers neither data nor heartbeats for this long is gone, and so is one that accepts and says
    // nothing.
    static constexpr int silence_ms = 3000;
    // Of a connection: that it stands, that it ended, that its handshake failed.
    static constexpr int watched = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
                                   ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                                   ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;

    void configure() {
        socket_.set(zmq::sockopt::linger, 0);
        // Only to a server that is there: what waits for one waits in the session, which can give it to another.
        socket_.set(zmq::sockopt::immediate, true);
        socket_.set(zmq::sockopt::sndhwm, settings_.messages_max);
        socket_.set(zmq::sockopt::rcvhwm, settings_.messages_max);
        socket_.set(zmq::sockopt::heartbeat_ivl, static_cast<int>(settings_.heartbeat.count()));
        socket_.set(zmq::sockopt::heartbeat_timeout, silence_ms);
        socket_.set(zmq::sockopt::handshake_ivl, silence_ms);
        socket_.set(zmq::sockopt::connect_timeout, silence_ms);
        if (settings_.keys) {
            socket_.set(zmq::sockopt::curve_serverkey, settings_.keys->server);
            socket_.set(zmq::sockopt::curve_publickey, settings_.keys->own_public);
            socket_.set(zmq::sockopt::curve_secretkey, settings_.keys->own_secret);
        }
    }

    void watch() {
        // Several clients may share a context, in several threads; an address in it can be bound once.
        static std::atomic<std::uint64_t> opened{0};
        const auto address = "inproc://narsil-monitor-" + std::to_string(++opened);
        if (zmq_socket_monitor(socket_.handle(), address.c_str(), watched) != 0) throw zmq::error_t();
        monitor_ = zmq::socket_t(*context_, zmq::socket_type::pair);
        monitor_.set(zmq::sockopt::linger, 0);
        monitor_.connect(address);
    }

    bool send(zmq::message_t& frame, bool more) {
        zmq::message_t copy;
        copy.copy(frame);
        const auto flags = more ? zmq::send_flags::dontwait | zmq::send_flags::sndmore : zmq::send_flags::dontwait;
        return uninterrupted([&] { return socket_.send(copy, flags).has_value(); });
    }

    static bool receive(zmq::socket_t& socket, zmq::message_t& frame) {
        return uninterrupted([&] { return socket.recv(frame, zmq::recv_flags::dontwait).has_value(); });
    }

    static std::optional<ConnectionEvent> meaning(std::uint16_t event, std::uint32_t value) {
        using Event = ConnectionEvent;
        const auto failed = Event::Kind::failed;
        switch (event) {
            case ZMQ_EVENT_HANDSHAKE_SUCCEEDED: return Event{Event::Kind::up};
            case ZMQ_EVENT_DISCONNECTED: return Event{Event::Kind::down};
            // ZAP's 300 and 500 are the server's own trouble, which may pass.
            case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
                return Event{failed, "it does not take our key (" + std::to_string(value) + ")", value == 400};
            case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
                return Event{failed, "it does not agree on the security of the connection", true};
            case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                return Event{failed, "it hung up in the handshake, as with a wrong server_key or no room for more", false};
            default: return std::nullopt;
        }
    }

    std::shared_ptr<zmq::context_t> context_;
    std::string endpoint_;
    DealerSettings settings_;
    zmq::socket_t socket_;
    zmq::socket_t monitor_;
};

}  // namespace narsil::detail
