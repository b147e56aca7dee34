// A client's side of the protocol with no socket, clock or thread: it is given the frames, the events and the time.
#pragma once

#include <algorithm>
#include <deque>
#include <set>
#include <unordered_map>

#include "narsil/call.hpp"
#include "narsil/decode.hpp"
#include "narsil/fleet.hpp"

namespace narsil::detail {

// Calls in flight, matched to replies by id in any order. A call is sent to one server; if that is lost before it
// answers, or takes no work, once to another. Every call ends exactly once, by a reply, an event or its time-out. A
// message that cannot be matched is dropped; the last of these, late replies apart, is named in the error of the calls
// that time out around it.
class Session {
public:
    Session(const std::vector<std::string>& endpoints, std::size_t inflight_max, bool keyed)
        : fleet_(endpoints, inflight_max, keyed), inflight_max_(inflight_max) {}

    std::size_t inflight() const { return calls_.size(); }
    bool full() const { return calls_.size() >= inflight_max_; }
    Fleet& fleet() { return fleet_; }
    const Fleet& fleet() const { return fleet_; }

    // Number the request, ids increasing from 1: a server answers with 0 what it cannot read.
    std::uint64_t begin(const Request& request, TimePoint now, TimePoint expires) {
        auto frames = wire::encode_request(last_id_ + 1, request);
        const auto rows = request.features.rows();
        return add({wire::Operation::infer, rows, std::move(frames), now, expires, retry_by(request, now, expires)});
    }
    std::uint64_t begin(wire::Operation control, TimePoint now, TimePoint expires) {
        wire::Message frames;
        frames.push_back(wire::encode_bare(last_id_ + 1, control));
        return add({control, 0, std::move(frames), now, expires, expires});
    }

    // Give every call that waits to the server that is to have it, where `send(server, frames)` says that it took them,
    // and fail those that none will take however long they wait. Whether any waits no longer.
    template <typename Send>
    bool place(TimePoint now, const Send& send) {
        fleet_.refresh(now);
        bool any = false;
        for (const auto id : std::vector<std::uint64_t>(waiting_.begin(), waiting_.end())) {
            auto& call = calls_.at(id);
            if (auto failure = hopeless(call, now)) {
                finish(id, *std::move(failure), now);
                any = true;
            } else if (placed(call, now, send)) {
                waiting_.erase(std::find(waiting_.begin(), waiting_.end(), id));
                any = true;
            }
        }
        return any;
    }

    // Whether this call has never yet been given to a server, and is not done.
    bool unsent(std::uint64_t id) const {
        const auto found = calls_.find(id);
        return found != calls_.end() && !found->second.sent();
    }

    // A message from `server`. Never throws on any bytes.
    void receive(std::size_t server, const std::vector<std::string_view>& frames, TimePoint now) {
        try {
            auto reply = wire::decode_reply(frames);
            if (reply.window) fleet_.grant(server, *reply.window);
            answer(server, std::move(reply), now);
        } catch (const WireError& error) {
            note(error.what(), now);
        }
    }

    void up(std::size_t server) { fleet_.up(server); }

    // The connection ended, and what had arrived is read.
    void down(std::size_t server, TimePoint now) {
        for (const auto id : ids_at(server)) {
            auto& call = calls_.at(id);
            auto lost = Failure::server_lost("the connection to " + fleet_.endpoint(server) +
                                             " ended before it answered, and no other server did in its place");
            if (call.cancelled) {
                finish(id, cancelled(), now);
            } else if (call.setback || now >= call.retry_by) {
                finish(id, std::move(lost), now);
            } else {
                again(id, call, std::move(lost), std::nullopt);
            }
        }
        // After the calls: with the connection all that its server had been asked is forgotten.
        fleet_.down(server, now);
    }

    // Fail the calls whose time is up; the CANCELs tell their servers.
    std::vector<Cancel> expire(TimePoint now) {
        std::vector<Cancel> cancels;
        while (!expiries_.empty() && expiries_.begin()->first <= now) {
            const auto id = expiries_.begin()->second;
            const auto& call = calls_.at(id);
            if (call.server && !call.control()) cancels.push_back({*call.server, id});
            finish(id, overdue(call), now);
        }
        return cancels;
    }

    // Nobody needs it any more: it is not sent again. One that is at a server stays, for the one reply that it still
    // gets.
    std::optional<Cancel> cancel(std::uint64_t id, TimePoint now) {
        const auto found = calls_.find(id);
        if (found == calls_.end()) return std::nullopt;
        found->second.cancelled = true;
        if (found->second.server) return Cancel{*found->second.server, id};
        finish(id, cancelled(), now);
        return std::nullopt;
    }

    // Drop it, and its reply when it comes.
    void forget(std::uint64_t id, TimePoint now) {
        if (calls_.find(id) != calls_.end()) finish(id, cancelled(), now);
        take(id);
    }

    // When there is something to do even if nothing comes.
    TimePoint wake() const {
        return expiries_.empty() ? fleet_.wake() : std::min(fleet_.wake(), expiries_.begin()->first);
    }

    // What has finished: the oldest, or the one of this id, or that if it was never sent.
    std::optional<Finished> take() {
        return take_if([](const Finished&) { return true; });
    }
    std::optional<Finished> take(std::uint64_t id) {
        return take_if([id](const Finished& finished) { return finished.id == id; });
    }
    std::optional<Finished> take_unsent(std::uint64_t id) {
        return take_if([id](const Finished& finished) { return finished.id == id && !finished.sent; });
    }

private:
    std::uint64_t add(Call call) {
        const auto id = ++last_id_;
        expiries_.emplace(call.expires, id);
        waiting_.push_back(id);
        calls_.emplace(id, std::move(call));
        return id;
    }

    std::optional<Failure> hopeless(const Call& call, TimePoint now) const {
        if (call.setback) {
            const bool nowhere = call.avoid && !fleet_.any_connected(call.avoid);
            if (nowhere || now >= call.retry_by || fleet_.all_refused()) return call.setback;
        } else if (fleet_.all_refused()) {
            return Failure::handshake_refused(fleet_.refusals());
        }
        return std::nullopt;
    }

    template <typename Send>
    bool placed(Call& call, TimePoint now, const Send& send) {
        while (const auto server = fleet_.pick(call.avoid, call.control(), now)) {
            if (send(*server, call.frames)) {
                fleet_.sent(*server, call.control());
                call.server = server;
                return true;
            }
            fleet_.stall(*server);
        }
        return false;
    }

    void answer(std::size_t server, wire::Reply reply, TimePoint now) {
        const auto id = reply.id;
        const auto found = calls_.find(id);
        const auto* refusal = std::get_if<Refusal>(&reply.body);
        if (found == calls_.end() || found->second.server != server) {
            fleet_.answered_abandoned(server, id);
            if (id == 0 && refusal != nullptr) note(refusal->detail, now);
        } else if (refusal != nullptr) {
            refuse(server, id, found->second, *refusal, now);
        } else {
            auto brought = result(found->second, std::move(reply), now);
            if (auto* unusable = std::get_if<std::string>(&brought)) return note(std::move(*unusable), now);
            finish(id, std::get<Outcome>(std::move(brought)), now, Ended::answered);
        }
    }

    void refuse(std::size_t server, std::uint64_t id, Call& call, const Refusal& refusal, TimePoint now) {
        if (refusal.status == Status::draining || refusal.status == Status::unavailable) {
            fleet_.shun(server, now);
            const bool first = !call.setback && !call.cancelled && now < call.retry_by;
            if (first && fleet_.any_connected(server)) {
                if (!call.control()) fleet_.answered(server);
                return again(id, call, refusal, server);
            }
        }
        finish(id, Failure(refusal), now, Ended::answered);
    }

    void again(std::uint64_t id, Call& call, Failure setback, std::optional<std::size_t> avoid) {
        call.server.reset();
        call.setback = std::move(setback);
        call.avoid = avoid;
        waiting_.push_back(id);
    }

    Failure overdue(const Call& call) const {
        if (call.server) return late(call);
        if (call.setback) return *call.setback;
        if (fleet_.any_connected()) return Failure::timeout("no server had room for the request in time");
        if (auto why = fleet_.refusals(); !why.empty()) return Failure::handshake_refused(std::move(why));
        return Failure::unreachable("no server took the request in time: " + fleet_.hitches());
    }

    Failure late(const Call& call) const {
        const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(call.expires - call.begun).count();
        auto text = "no answer in " + std::to_string(waited) + " ms";
        if (!stray_.empty() && stray_at_ >= call.begun) text += "; an unusable message came: " + stray_;
        return Failure::timeout(std::move(text));
    }

    static Failure cancelled() { return Refusal{Status::cancelled, "cancelled before any server answered", {}, {}}; }

    // Whether its server has answered it, or still counts it.
    enum class Ended { answered, abandoned };

    void finish(std::uint64_t id, Outcome outcome, TimePoint now, Ended ended = Ended::abandoned) {
        const auto found = calls_.find(id);
        const auto& call = found->second;
        expiries_.erase({call.expires, id});
        if (!call.server) {
            waiting_.erase(std::find(waiting_.begin(), waiting_.end(), id));
        } else if (!call.control()) {
            if (ended == Ended::answered) fleet_.answered(*call.server);
            if (ended == Ended::abandoned) fleet_.abandon(*call.server, id, now);
        }
        finished_.push_back({id, std::move(outcome), now, call.sent()});
        calls_.erase(found);
    }

    template <typename Wanted>
    std::optional<Finished> take_if(const Wanted& wanted) {
        const auto found = std::find_if(finished_.begin(), finished_.end(), wanted);
        if (found == finished_.end()) return std::nullopt;
        std::optional<Finished> finished(std::move(*found));
        finished_.erase(found);
        return finished;
    }

    std::vector<std::uint64_t> ids_at(std::size_t server) const {
        std::vector<std::uint64_t> ids;
        for (const auto& [id, call] : calls_) {
            if (call.server == server) ids.push_back(id);
        }
        // Oldest first, as they were sent.
        std::sort(ids.begin(), ids.end());
        return ids;
    }

    void note(std::string text, TimePoint now) {
        stray_ = std::move(text);
        stray_at_ = now;
    }

    Fleet fleet_;
    std::size_t inflight_max_;
    std::unordered_map<std::uint64_t, Call> calls_;
    std::set<std::pair<TimePoint, std::uint64_t>> expiries_;
    std::deque<std::uint64_t> waiting_;  // calls that no server has, oldest first
    std::deque<Finished> finished_;
    std::uint64_t last_id_ = 0;
    std::string stray_;
    TimePoint stray_at_{};
};

}  // namespace narsil::detail
