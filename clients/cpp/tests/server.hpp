// A server in the test's own thread: it answers what it is told, when it is told.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "replies.hpp"

namespace narsil::test {

// A request that has come: from whom, and its header.
struct Taken {
    std::string route, header;
    std::uint64_t id() const {
        const auto object = msgpack::unpack(header.data() + 4, header.size() - 4);
        return detail::Fields(object.get()).uint("id");
    }
};

class Server {
public:
    explicit Server(std::string endpoint) : endpoint_(std::move(endpoint)) { bind(); }
    Server(std::string endpoint, const std::string& secret_key) : endpoint_(std::move(endpoint)) {
        router_ = zmq::socket_t(context_, zmq::socket_type::router);
        router_.set(zmq::sockopt::curve_server, true);
        router_.set(zmq::sockopt::curve_secretkey, secret_key);
        router_.set(zmq::sockopt::linger, 0);
        router_.bind(endpoint_);
    }

    void bind() {
        router_ = zmq::socket_t(context_, zmq::socket_type::router);
        router_.set(zmq::sockopt::linger, 0);
        router_.bind(endpoint_);
    }
    void stop() { router_.close(); }

    std::optional<Taken> take(std::chrono::milliseconds wait = std::chrono::seconds(2)) {
        zmq::pollitem_t item{router_.handle(), 0, ZMQ_POLLIN, 0};
        if (zmq::poll(&item, 1, wait) == 0) return std::nullopt;
        Taken taken;
        zmq::message_t frame;
        for (int index = 0; index == 0 || frame.more(); ++index) {
            if (!router_.recv(frame)) return std::nullopt;
            if (index == 0) taken.route = frame.to_string();
            if (index == 1) taken.header = frame.to_string();
        }
        return taken;
    }

    void reply(const Taken& taken, const Frames& frames) {
        router_.send(zmq::buffer(taken.route), zmq::send_flags::sndmore);
        for (std::size_t index = 0; index < frames.size(); ++index) {
            const bool more = index + 1 < frames.size();
            router_.send(zmq::buffer(frames[index]), more ? zmq::send_flags::sndmore : zmq::send_flags::none);
        }
    }

private:
    zmq::context_t context_;
    std::string endpoint_;
    zmq::socket_t router_;
};

}  // namespace narsil::test
