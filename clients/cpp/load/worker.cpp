#include "worker.hpp"

#include <sys/prctl.h>

#include <algorithm>
#include <exception>
#include <utility>

namespace narsil::load {
namespace {

constexpr std::int64_t second_ns = 1'000'000'000;
// How late a client that only waits may notice that a request's time is up.
constexpr std::int64_t nap_ns = 1'000'000;

std::uint64_t apart(std::int64_t from_ns, std::int64_t to_ns) {
    return static_cast<std::uint64_t>(std::max<std::int64_t>(0, to_ns - from_ns));
}

const char* name(Failure::Kind kind) {
    switch (kind) {
        case Failure::Kind::unreachable: return "unreachable";
        case Failure::Kind::handshake_refused: return "handshake_refused";
        case Failure::Kind::server_lost: return "server_lost";
        case Failure::Kind::timeout: return "timeout";
        case Failure::Kind::refused: break;
    }
    return "refused";
}

// A seed of its own for every use and thread: neighbouring seeds of mt19937_64 are mixed by seed_seq.
std::uint64_t seed_of(const Settings& settings, std::uint32_t use, std::uint32_t index) {
    std::seed_seq mixed{static_cast<std::uint32_t>(settings.seed), static_cast<std::uint32_t>(settings.seed >> 32), use,
                        index};
    std::uint32_t words[2];
    mixed.generate(words, words + 2);
    return std::uint64_t{words[0]} << 32 | words[1];
}

// Connection c belongs to the thread c modulo threads.
std::uint32_t share(const Settings& settings, std::uint32_t index) {
    return (settings.connections - index + settings.threads - 1) / settings.threads;
}

// A closed loop has no schedule; its rate here is never used.
double rate(const Settings& settings) { return settings.closed ? 1.0 : settings.rate_per_s; }

std::shared_ptr<zmq::context_t> context_for(std::uint32_t connections, std::size_t endpoints) {
    auto context = std::make_shared<zmq::context_t>(1);
    // A client has a socket, its monitor and the monitor's other end per server; the default of 1023 is too few.
    context->set(zmq::ctxopt::max_sockets, static_cast<int>(64 + 4 * connections * endpoints));
    return context;
}

}  // namespace

Options client_options(const Settings& settings, std::shared_ptr<zmq::context_t> context) {
    Options options;
    options.endpoints = settings.endpoints;
    options.timeout = std::chrono::milliseconds(settings.timeout_ms);
    options.inflight_max = settings.closed ? settings.closed : settings.window;
    if (!settings.server_key.empty()) options.curve = Curve{settings.server_key, settings.secret_key};
    options.context = std::move(context);
    return options;
}

Worker::Worker(const Settings& settings, const Inputs& inputs, std::uint32_t index)
    : settings_(settings),
      inputs_(inputs),
      schedule_(settings.arrivals, rate(settings), index, settings.threads, seed_of(settings, 0, index)),
      random_(seed_of(settings, 1, index)),
      connections_(share(settings, index)),
      warm_ns_(static_cast<std::int64_t>(settings.warm_up_s * second_ns)),
      end_ns_(warm_ns_ + static_cast<std::int64_t>(settings.duration_s * second_ns)),
      give_up_ns_(end_ns_ + std::int64_t{settings.timeout_ms} * 1'000'000) {
    const auto context = context_for(share(settings, index), settings.endpoints.size());
    for (Connection& connection : connections_) {
        connection.client = std::make_unique<Client>(client_options(settings, context));
        connection.client->health();
    }
}

std::variant<Tally, std::string> Worker::run(TimePoint start) noexcept {
    try {
        start_ = start;
        // Else the kernel may wake this thread 50 us late, for its other timers' sake.
        prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
        for (;;) {
            const std::int64_t now_ns = since_start_ns(Clock::now());
            settings_.closed ? send_closed(now_ns) : send_open(now_ns);
            if (receive()) continue;
            if (over(now_ns)) break;
            sleep();
        }
        count_unsent();
        return std::move(tally_);
    } catch (const std::exception& error) {
        return error.what();
    }
}

std::int64_t Worker::since_start_ns(TimePoint when) const {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(when - start_).count();
}

// While no connection has room the schedule stands still, and its times with it: what is sent later is as late.
void Worker::send_open(std::int64_t now_ns) {
    while (more_due() && next_ns() <= now_ns && now_ns < give_up_ns_) {
        Connection* connection = with_room();
        if (!connection) {
            full_ns_ = now_ns;
            return;
        }
        submit(*connection, next_ns());
        schedule_.advance();
    }
}

void Worker::send_closed(std::int64_t now_ns) {
    if (now_ns >= end_ns_) return;
    for (Connection& connection : connections_) {
        while (connection.sent.size() < settings_.closed && !connection.client->full()) submit(connection, now_ns);
    }
}

Worker::Connection* Worker::with_room() {
    for (std::size_t tried = 0; tried < connections_.size(); ++tried) {
        Connection& connection = connections_[turn_];
        turn_ = (turn_ + 1) % connections_.size();
        if (!connection.client->full()) return &connection;
    }
    return nullptr;
}

void Worker::submit(Connection& connection, std::int64_t intended_ns) {
    const std::uint32_t rows = draw_rows(settings_.sizes, random_);
    const std::size_t first = inputs_.draw_first(rows, random_);
    Request request(Features::one_hot(rows, {inputs_.dense(first), rows * inputs_.dense_width()},
                                      View<std::int32_t>(inputs_.ids(first), rows * inputs_.features())));
    request.deadline_us = settings_.deadline_us;
    request.priority = settings_.bulk ? Priority::bulk : Priority::interactive;
    request.model = settings_.model;
    const std::int64_t sent_ns = since_start_ns(Clock::now());
    const std::uint64_t id = connection.client->submit(request);
    connection.sent.emplace(id, Sent{intended_ns, sent_ns, rows});
    if (intended_ns < warm_ns_) {
        ++tally_.warm_up_requests;
        return;
    }
    ++tally_.intended;
    ++tally_.sent;
    if (intended_ns <= full_ns_) ++tally_.held;
    tally_.lateness.record(apart(intended_ns, sent_ns));
}

bool Worker::receive() {
    bool any = false;
    for (Connection& connection : connections_) {
        while (const auto completion = connection.client->poll(std::chrono::microseconds(0))) {
            finish(connection, *completion);
            any = true;
        }
    }
    return any;
}

void Worker::finish(Connection& connection, const Completion& completion) {
    const auto found = connection.sent.find(completion.id);
    const Sent sent = found->second;
    connection.sent.erase(found);
    const std::int64_t finished_ns = since_start_ns(completion.finished_at);
    if (const auto* scores = std::get_if<Scores>(&completion.outcome)) {
        count_scores(sent, *scores, finished_ns);
        return;
    }
    if (sent.intended_ns < warm_ns_) return;
    const auto& failure = std::get<Failure>(completion.outcome);
    if (tally_.complaint.empty()) tally_.complaint = failure.detail();
    if (failure.refusal()) {
        ++tally_.refused[narsil::name(failure.refusal()->status)];
        tally_.refusal.record(apart(sent.intended_ns, finished_ns));
    } else {
        ++tally_.failed[name(failure.kind())];
        tally_.latency.record(apart(sent.intended_ns, finished_ns));
    }
}

void Worker::count_scores(const Sent& sent, const Scores& scores, std::int64_t finished_ns) {
    if (finished_ns >= warm_ns_ && finished_ns < end_ns_) {
        ++tally_.scored_in_time;
        tally_.rows_in_time += sent.rows;
    }
    if (sent.intended_ns < warm_ns_) return;
    ++tally_.scored;
    tally_.latency.record(apart(sent.intended_ns, finished_ns));
    tally_.round_trip.record(apart(sent.sent_ns, finished_ns));
    const StageTimes& times = scores.times;
    const double stages_us[] = {times.queue_us, times.fill_us, times.launch_us, times.read_us, times.server_us};
    for (std::size_t stage = 0; stage < tally_.stages.size(); ++stage) {
        tally_.stages[stage].record(static_cast<std::uint64_t>(std::max(0.0, stages_us[stage] * 1000.0)));
    }
}

// A request in flight is over in the client's time-out; what could not be sent is given up as long after the end.
bool Worker::over(std::int64_t now_ns) const {
    if (now_ns < end_ns_ || (more_due() && now_ns < give_up_ns_)) return false;
    return std::all_of(connections_.begin(), connections_.end(),
                       [](const Connection& connection) { return connection.sent.empty(); });
}

void Worker::sleep() {
    std::int64_t wait_ns = nap_ns;
    if (more_due()) {
        // What is due already waits for room, so for a reply.
        const std::int64_t until_ns = next_ns() - since_start_ns(Clock::now());
        if (until_ns > 0) wait_ns = std::min(wait_ns, until_ns);
    }
    descriptors_.clear();
    for (const Connection& connection : connections_) {
        for (const int descriptor : connection.client->descriptors()) descriptors_.push_back({descriptor, POLLIN, 0});
    }
    const timespec wait{0, static_cast<long>(wait_ns)};
    ppoll(descriptors_.data(), descriptors_.size(), &wait, nullptr);
}

void Worker::count_unsent() {
    const std::int64_t now_ns = since_start_ns(Clock::now());
    for (; more_due(); schedule_.advance()) {
        if (next_ns() < warm_ns_) continue;
        ++tally_.intended;
        ++tally_.unsent;
        tally_.latency.record(apart(next_ns(), now_ns));
    }
}

}  // namespace narsil::load
