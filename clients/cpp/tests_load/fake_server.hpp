#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <msgpack.hpp>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>
#include <zmq.hpp>

// A server of its own thread that answers at once, whatever the inputs, but for one stall; for a request of one row.
class FakeServer {
public:
    // After so many INFERs it does nothing for `stall`.
    FakeServer(int stall_after, std::chrono::milliseconds stall)
        : stall_after_(stall_after), stall_(stall), router_(context_, zmq::socket_type::router) {
        router_.set(zmq::sockopt::linger, 0);
        router_.bind("tcp://127.0.0.1:*");
        endpoint_ = router_.get(zmq::sockopt::last_endpoint);
        thread_ = std::thread([this] { serve(); });
    }

    ~FakeServer() {
        context_.shutdown();
        thread_.join();
    }

    FakeServer(const FakeServer&) = delete;
    FakeServer& operator=(const FakeServer&) = delete;

    const std::string& endpoint() const { return endpoint_; }

private:
    using Packer = msgpack::packer<msgpack::sbuffer>;

    void serve() {
        try {
            for (;;) answer();
        } catch (const zmq::error_t&) {
            // The context was shut down; the socket has to be closed for the context to end.
            router_.close();
        }
    }

    void answer() {
        std::vector<zmq::message_t> frames;
        do {
            frames.emplace_back();
            if (!router_.recv(frames.back())) return;
        } while (frames.back().more());
        if (frames.size() < 2 || frames[1].size() < 4) return;
        const auto operation = static_cast<unsigned char>(frames[1].data<char>()[3]);
        const auto header = reply(operation, request_id(frames[1]));
        if (operation == 1 && ++infers_ == stall_after_) std::this_thread::sleep_for(stall_);
        if (operation == 4) return;
        router_.send(frames[0], zmq::send_flags::sndmore);
        const bool scores = operation == 1;
        router_.send(zmq::buffer(header), scores ? zmq::send_flags::sndmore : zmq::send_flags::none);
        const float score = 0.5F;
        if (scores) router_.send(zmq::buffer(&score, sizeof score), zmq::send_flags::none);
    }

    static std::uint64_t request_id(const zmq::message_t& header) {
        const auto map = msgpack::unpack(header.data<char>() + 4, header.size() - 4);
        for (const auto& field : map.get().via.map) {
            if (field.key.as<std::string>() == "id") return field.val.as<std::uint64_t>();
        }
        return 0;
    }

    static std::string reply(unsigned char operation, std::uint64_t id) {
        msgpack::sbuffer map;
        Packer packer(map);
        packer.pack_map(operation == 3 ? 4 : 6);
        pack(packer, "id", id);
        pack(packer, "s", 0);
        pack(packer, "v", std::string("fake"));
        if (operation == 1) {
            pack(packer, "b", 1);
            pack(packer, "f", 1);
            // Not whole numbers, which msgpack-cxx would pack as integers.
            pack(packer, "us", std::vector<double>{1.5, 2.5, 3.5, 4.5, 12.5});
        } else if (operation == 2) {
            pack(packer, "state", std::string("ready"));
            pack(packer, "inflight", 0);
            pack(packer, "uptime_s", 1.5);
        } else {
            packer.pack(std::string("meta"));
            pack_meta(packer);
        }
        return std::string("NG\x01") + static_cast<char>(operation | 0x80U) + std::string(map.data(), map.size());
    }

    // Two dense columns, and two features of one table with ten rows.
    static void pack_meta(Packer& packer) {
        packer.pack_map(2);
        pack(packer, "rows_max", 1);
        packer.pack(std::string("spec"));
        packer.pack_map(3);
        pack(packer, "dense_features", std::vector<std::string>{"x", "y"});
        packer.pack(std::string("tables"));
        packer.pack_array(1);
        packer.pack_map(2);
        pack(packer, "name", std::string("t"));
        pack(packer, "rows", 10);
        packer.pack(std::string("sparse_features"));
        packer.pack_array(2);
        for (const char* feature : {"a", "b"}) {
            packer.pack_map(2);
            pack(packer, "name", std::string(feature));
            pack(packer, "table", std::string("t"));
        }
    }

    template <typename Value>
    static void pack(Packer& packer, const char* key, const Value& value) {
        packer.pack(std::string(key));
        packer.pack(value);
    }

    int stall_after_;
    std::chrono::milliseconds stall_;
    int infers_ = 0;
    zmq::context_t context_;
    zmq::socket_t router_;
    std::string endpoint_;
    std::thread thread_;
};
