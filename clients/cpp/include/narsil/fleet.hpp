// Which of several servers a request goes to, and when one that is gone is asked again. No socket, no clock.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "narsil/replies.hpp"

namespace narsil::detail {

inline constexpr std::uint64_t window_start = 64;

// The servers as their connections and replies show them, by the index of their endpoint. To a client with keys
// (`keyed`) a server that hangs up time and again has answered; to one without, it is full.
class Fleet {
public:
    Fleet(const std::vector<std::string>& endpoints, std::size_t inflight_max, bool keyed)
        : inflight_max_(inflight_max), keyed_(keyed) {
        for (const auto& endpoint : endpoints) servers_.emplace_back().endpoint = endpoint;
    }

    const std::string& endpoint(std::size_t index) const { return servers_[index].endpoint; }

    // The connected server with the least unanswered that has room, ties in turn; not `avoid`. A question about a
    // server itself (`control`) goes to the next in turn, whatever its load.
    std::optional<std::size_t> pick(std::optional<std::size_t> avoid, bool control, TimePoint now) const {
        std::optional<std::size_t> best;
        for (std::size_t step = 0; step < servers_.size(); ++step) {
            const auto index = (turn_ + step) % servers_.size();
            const auto& server = servers_[index];
            if (!server.connected || server.stalled || index == avoid) continue;
            if (control) return index;
            if (has_room(server) && (!best || load(server, now) < load(servers_[*best], now))) best = index;
        }
        return best;
    }
    bool any_room() const {
        return std::any_of(servers_.begin(), servers_.end(), [this](const Server& server) {
            return server.connected && has_room(server);
        });
    }

    void sent(std::size_t index, bool control) {
        servers_[index].unanswered += !control;
        turn_ = index + 1;
    }
    void answered(std::size_t index) { --servers_[index].unanswered; }

    // Nobody waits for this request any more, but it fills its place at the server until it is answered: after a second
    // its answer was dropped on the way.
    void abandon(std::size_t index, std::uint64_t id, TimePoint now) {
        servers_[index].abandoned.emplace_back(id, now + abandoned_for);
    }
    void answered_abandoned(std::size_t index, std::uint64_t id) {
        auto& server = servers_[index];
        const auto same = [id](const auto& abandoned) { return abandoned.first == id; };
        const auto found = std::find_if(server.abandoned.begin(), server.abandoned.end(), same);
        if (found == server.abandoned.end()) return;
        server.abandoned.erase(found);
        --server.unanswered;
    }

    // The socket had no room after all; it is asked again after `refresh`.
    void stall(std::size_t index) { servers_[index].stalled = true; }
    bool stalled(std::size_t index) const { return servers_[index].stalled; }
    void refresh(TimePoint now) {
        for (auto& server : servers_) {
            server.stalled = false;
            for (; !server.abandoned.empty() && server.abandoned.front().second <= now; --server.unanswered) {
                server.abandoned.pop_front();
            }
        }
    }

    void grant(std::size_t index, std::uint64_t window) { servers_[index].window = window; }

    // It takes no work now, and is passed over for a while where another does.
    void shun(std::size_t index, TimePoint now) { servers_[index].shunned_until = now + shunned_for; }

    // The handshake succeeded: a new peer to that server, which has asked it nothing yet.
    void up(std::size_t index) {
        auto& server = servers_[index];
        server = Server{std::move(server.endpoint)};
        server.connected = true;
    }
    // The connection ended. After a handshake that failed this says nothing new.
    void down(std::size_t index, TimePoint now) {
        auto& server = servers_[index];
        if (server.retry_at) return;
        if (!server.connected) return refuse(index, "it hung up before the handshake", false, now);
        server = Server{std::move(server.endpoint)};
        server.retry_at = now + retry_after;
    }
    // The handshake failed; `final` where the server said so. Without a reason it may be one that was going down: so
    // many in a row are its answer.
    void refuse(std::size_t index, std::string why, bool final, TimePoint now) {
        auto& server = servers_[index];
        ++server.failures;
        if (final || (keyed_ && server.failures >= failures_max)) server.refusal = why;
        server.hitch = std::move(why);
        const auto doubled = std::min(server.failures - 1, 10);
        server.retry_at = now + std::min<Clock::duration>(retry_after * (1 << doubled), retry_after_max);
    }

    // The next server to be asked again; from here on it is connecting.
    std::optional<std::size_t> due(TimePoint now) {
        for (std::size_t index = 0; index < servers_.size(); ++index) {
            if (!servers_[index].retry_at || now < *servers_[index].retry_at) continue;
            servers_[index].retry_at.reset();
            return index;
        }
        return std::nullopt;
    }
    // When there is something to do here even if nothing comes.
    TimePoint wake() const {
        auto time = TimePoint::max();
        for (const auto& server : servers_) {
            if (server.retry_at) time = std::min(time, *server.retry_at);
            if (!server.abandoned.empty()) time = std::min(time, server.abandoned.front().second);
        }
        return time;
    }

    bool any_connected(std::optional<std::size_t> but = std::nullopt) const {
        for (std::size_t index = 0; index < servers_.size(); ++index) {
            if (servers_[index].connected && index != but) return true;
        }
        return false;
    }
    // Every server has refused the handshake, and none is being asked at the moment.
    bool all_refused() const {
        return std::all_of(servers_.begin(), servers_.end(), [](const Server& server) {
            return server.retry_at && !server.refusal.empty();
        });
    }
    // What servers said that refused the handshake when last asked, or "".
    std::string refusals() const {
        std::string text;
        for (const auto& server : servers_) {
            if (server.refusal.empty()) continue;
            text += (text.empty() ? "" : ", ") + server.endpoint + ": " + server.refusal;
        }
        return text;
    }
    // The servers, each with why its last handshake failed if that is known.
    std::string hitches() const {
        std::string text;
        for (const auto& server : servers_) {
            text += (text.empty() ? "" : ", ") + server.endpoint;
            if (!server.hitch.empty()) text += " (" + server.hitch + ")";
        }
        return text;
    }

private:
    static constexpr std::chrono::milliseconds retry_after{50}, retry_after_max{5000};
    static constexpr std::chrono::seconds shunned_for{1}, abandoned_for{1};
    static constexpr int failures_max = 3;

    // Connected, or connecting, or waiting until `retry_at` to be asked again.
    struct Server {
        std::string endpoint{};
        bool connected = false;
        bool stalled = false;
        std::uint64_t window = window_start;
        std::uint64_t unanswered = 0;
        std::deque<std::pair<std::uint64_t, TimePoint>> abandoned{};  // id, and until when it counts
        TimePoint shunned_until{};
        std::optional<TimePoint> retry_at{};
        int failures = 0;
        std::string hitch{};    // why the last handshake failed
        std::string refusal{};  // the same, where the server meant it
    };

    bool has_room(const Server& server) const {
        return server.unanswered < std::min<std::uint64_t>(server.window, inflight_max_);
    }
    static std::pair<bool, std::uint64_t> load(const Server& server, TimePoint now) {
        return {server.shunned_until > now, server.unanswered};
    }

    std::vector<Server> servers_;
    std::size_t inflight_max_;
    bool keyed_;
    std::size_t turn_ = 0;
};

}  // namespace narsil::detail
