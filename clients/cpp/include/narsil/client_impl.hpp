// How client.hpp does it; included there.
#pragma once

#include "narsil/client.hpp"

namespace narsil {

namespace detail {

// What libzmq can still fail with: its context shut down, or no sockets left.
template <typename Work>
auto translated(const Work& work) {
    try {
        return work();
    } catch (const zmq::error_t& error) {
        if (error.num() == ETERM) throw Closed("the client's ZeroMQ context was shut down");
        throw Error(std::string("ZeroMQ failed: ") + error.what());
    }
}

}  // namespace detail

inline Options Client::checked(Options options) {
    if (options.endpoints.empty()) throw std::invalid_argument("want at least one endpoint");
    if (options.inflight_max < 1 || options.inflight_max > inflight_limit) {
        throw std::invalid_argument("want inflight_max from 1 to 1000000");
    }
    int major = 0, minor = 0, patch = 0;
    zmq_version(&major, &minor, &patch);
    // Before it a stranger could crash a client, or starve one (CVE-2019-6250, CVE-2019-13132, CVE-2020-15166).
    if (std::tuple(major, minor, patch) < std::tuple(4, 3, 4)) throw Error("want libzmq 4.3.4 or newer");
    if (options.keep_warm.count() < 0 || options.keep_warm > heartbeat) {
        throw std::invalid_argument("want keep_warm from 0 to 1000 ms");
    }
    if (!options.context) options.context = detail::translated([] { return std::make_shared<zmq::context_t>(); });
    return options;
}

inline detail::DealerSettings Client::settings(const Options& options) {
    std::optional<detail::CurveKeys> keys;
    if (options.curve) keys = detail::curve_keys(*options.curve);
    // Twice the window, because libzmq learns what a pipe's reader has taken in steps of half the mark.
    const auto messages_max = static_cast<int>(2 * options.inflight_max);
    return {messages_max, options.keep_warm.count() > 0 ? options.keep_warm : heartbeat, std::move(keys)};
}

inline Client::Client(Options options)
    : options_(checked(std::move(options))),
      session_(options_.endpoints, options_.inflight_max, options_.curve.has_value()) {
    expiry(std::nullopt, Clock::now());
    const auto dealer_settings = settings(options_);
    detail::translated([&] {
        for (const auto& endpoint : options_.endpoints) {
            dealers_.emplace_back(options_.context, endpoint, dealer_settings);
            dealers_.back().open();
        }
    });
}

inline TimePoint Client::expiry(std::optional<std::chrono::microseconds> timeout, TimePoint now) const {
    const auto given = timeout.value_or(options_.timeout);
    if (given.count() <= 0 || given > timeout_max) {
        throw std::invalid_argument("want a timeout above 0 and at most 1000000 s");
    }
    return now + given;
}

inline Scores Client::predict(const Request& request) {
    return detail::translated([&] { return await<Scores>(start(request)); });
}

inline std::uint64_t Client::submit(const Request& request) {
    return detail::translated([&] {
        const auto id = start(request);
        try {
            while (session_.unsent(id)) turn(TimePoint::max());
        } catch (...) {
            session_.forget(id, Clock::now());
            throw;
        }
        if (const auto failed = session_.take_unsent(id)) std::get<Failure>(failed->outcome).raise();
        return id;
    });
}

inline std::optional<Completion> Client::poll(std::chrono::microseconds wait) {
    using std::chrono::microseconds;
    const auto until = Clock::now() + std::clamp<microseconds>(wait, microseconds(0), timeout_max);
    return detail::translated([&]() -> std::optional<Completion> {
        for (bool late = false;; late = Clock::now() >= until) {
            if (auto done = session_.take()) {
                auto* scores = std::get_if<Scores>(&done->outcome);
                if (scores != nullptr) return Completion{done->id, std::move(*scores), done->at};
                return Completion{done->id, std::get<Failure>(std::move(done->outcome)), done->at};
            }
            if (late) return std::nullopt;
            turn(until);
        }
    });
}

inline void Client::cancel(std::uint64_t id) {
    detail::translated([&] {
        if (const auto cancel = session_.cancel(id, Clock::now())) send(*cancel);
    });
}

inline Health Client::health() {
    return detail::translated([&] { return ask<Health>(wire::Operation::health); });
}

inline Metadata Client::metadata() {
    return detail::translated([&] { return ask<Metadata>(wire::Operation::metadata); });
}

inline std::uint64_t Client::start(const Request& request) {
    const auto now = Clock::now();
    const auto until = expiry(request.timeout, now);
    while (session_.full()) {
        if (Clock::now() >= until) throw Timeout(std::to_string(session_.inflight()) + " requests stayed in flight");
        turn(until);
    }
    // After a pause the connections may be others than they were.
    if (session_.inflight() == 0) read(now);
    const auto begun = Clock::now();
    const auto id = session_.begin(request, begun, until);
    place(begun);
    return id;
}

template <typename Result>
Result Client::ask(wire::Operation control) {
    const auto now = Clock::now();
    return await<Result>(session_.begin(control, now, expiry(std::nullopt, now)));
}

template <typename Result>
Result Client::await(std::uint64_t id) {
    try {
        while (true) {
            if (auto done = session_.take(id)) {
                if (const auto* failure = std::get_if<Failure>(&done->outcome)) failure->raise();
                return std::get<Result>(std::move(done->outcome));
            }
            turn(TimePoint::max());
        }
    } catch (...) {
        session_.forget(id, Clock::now());
        throw;
    }
}

// One round of everything there is to do, waiting for something to read until `until` at most.
inline void Client::turn(TimePoint until) {
    auto now = Clock::now();
    reconnect(now);
    if (place(now)) return;
    if (!read(now) && sleep(until, now)) {
        now = Clock::now();
        read(now);
    }
    // What has arrived counts, however late it is read: calls expire after that.
    for (const auto& cancel : session_.expire(now)) send(cancel);
}

inline bool Client::place(TimePoint now) {
    return session_.place(now, [this](std::size_t server, wire::Message& frames) {
        return dealers_[server].is_open() && dealers_[server].send(frames);
    });
}

inline bool Client::read(TimePoint now) {
    bool any = false;
    for (std::size_t index = 0; index < dealers_.size(); ++index) {
        if (!dealers_[index].is_open()) continue;
        // Messages first: what a server answered before it went is an answer.
        any |= read(index, now);
        any |= follow(index, now);
    }
    return any;
}

inline bool Client::read(std::size_t index, TimePoint now) {
    std::size_t count = 0;
    for (; count < messages_per_turn && dealers_[index].receive(frames_); ++count) {
        views_.clear();
        for (const auto& frame : frames_) views_.emplace_back(frame.data<char>(), frame.size());
        session_.receive(index, views_, now);
    }
    return count > 0;
}

inline bool Client::follow(std::size_t index, TimePoint now) {
    bool any = false;
    while (dealers_[index].is_open()) {
        const auto event = dealers_[index].next_event();
        if (!event) break;
        on(*event, index, now);
        any = true;
    }
    return any;
}

inline void Client::on(const detail::ConnectionEvent& event, std::size_t index, TimePoint now) {
    using Kind = detail::ConnectionEvent::Kind;
    if (event.kind == Kind::up) return session_.up(index);
    // What had arrived before the connection ended counts.
    read(index, now);
    // libzmq connects by itself to a server that comes back, and never again to one that refused: with a new socket
    // both are the same, and nothing that was sent to the old connection is taken for sent to the new.
    dealers_[index].close();
    if (event.kind == Kind::down) return session_.down(index, now);
    session_.fleet().refuse(index, event.why, event.final, now);
}

inline void Client::reconnect(TimePoint now) {
    while (const auto index = session_.fleet().due(now)) {
        try {
            dealers_[*index].open();
        } catch (const zmq::error_t& error) {
            if (error.num() == ETERM) throw;
            // No sockets or files left, say: that may pass.
            dealers_[*index].close();
            session_.fleet().refuse(*index, error.what(), false, now);
        }
    }
}

// False where there was no time to wait, or no need.
inline bool Client::sleep(TimePoint until, TimePoint now) {
    until = std::min(until, session_.wake());
    std::vector<pollfd> watched;
    for (const int descriptor : descriptors()) watched.push_back({descriptor, POLLIN, 0});
    for (std::size_t index = 0; index < dealers_.size(); ++index) {
        // Reading may have taken the edge that says there is room.
        if (session_.fleet().stalled(index) && dealers_[index].is_open() && dealers_[index].events() != 0) return false;
    }
    if (until <= now) return false;
    const auto left = std::chrono::nanoseconds(std::min<Clock::duration>(until - now, timeout_max)).count();
    const timespec time{static_cast<std::time_t>(left / 1'000'000'000), static_cast<long>(left % 1'000'000'000)};
    // ppoll, because its time-out is not in whole milliseconds. A signal ends it early, as any event does.
    ::ppoll(watched.data(), watched.size(), &time, nullptr);
    return true;
}

inline std::vector<int> Client::descriptors() const {
    std::vector<int> descriptors;
    for (const auto& dealer : dealers_) {
        if (dealer.is_open()) descriptors.insert(descriptors.end(), {dealer.fd(), dealer.event_fd()});
    }
    return descriptors;
}

inline void Client::send(const detail::Cancel& cancel) {
    auto& dealer = dealers_[cancel.server];
    wire::Message message;
    message.push_back(wire::encode_bare(cancel.id, wire::Operation::cancel));
    // One that finds no room is dropped: the request is then answered as if there had been none.
    if (dealer.is_open()) dealer.send(message);
}

}  // namespace narsil
