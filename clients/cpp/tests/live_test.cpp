// Against a live server at $NARSIL_ENDPOINT.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <random>

#include "narsil/client.hpp"

namespace narsil::test {
namespace {

using namespace std::chrono_literals;

Options live_options() {
    const char* endpoint = std::getenv("NARSIL_ENDPOINT");
    REQUIRE(endpoint != nullptr);
    Options options;
    options.endpoints = {endpoint};
    options.timeout = 20s;
    if (const char* key = std::getenv("NARSIL_SERVER_KEY")) {
        options.curve = Curve{key, std::getenv("NARSIL_SECRET_KEY_FILE")};
    }
    return options;
}

// `rows` random rows of this model: the same for the same seed.
struct Rows {
    Rows(const ModelShape& model, std::size_t count, unsigned seed) : rows(count) {
        std::mt19937 random(seed);
        for (std::size_t i = 0; i < count * model.dense_width; ++i) {
            dense.push_back(static_cast<float>(random() % 1000) / 1000.0F);
        }
        for (std::size_t row = 0; row < count; ++row) {
            for (const auto limit : model.feature_rows) ids.push_back(static_cast<std::int64_t>(random() % limit));
        }
    }
    Request request() const { return Features::one_hot(rows, dense, ids); }

    std::size_t rows;
    std::vector<float> dense;
    std::vector<std::int64_t> ids;
};

struct Live {
    Client client{live_options()};
    ModelShape model = shape_of(client.metadata());
};

// Bit-identical in the same bucket; the server's measurements and a request's neighbours decide which that is, and a
// request of several rows may be cut into several.
void check_same(const Scores& one, const Scores& other) {
    REQUIRE(one.scores.size() == other.scores.size());
    if (one.scores.size() == 1 && one.bucket_rows == other.bucket_rows) CHECK(one.scores == other.scores);
    for (std::size_t row = 0; row < one.scores.size(); ++row) {
        CHECK(one.scores[row] == doctest::Approx(other.scores[row]).epsilon(1e-4));
    }
}

Status refused(Client& client, const Request& request) {
    try {
        client.predict(request);
    } catch (const Refused& error) {
        return error.status();
    }
    return Status::ok;
}

TEST_CASE("a server is ready and says what it serves") {
    Live live;
    CHECK_FALSE(live.client.health().draining);
    CHECK(live.model.dense_width > 0);
    CHECK(live.model.feature_rows.size() > 0);
}

TEST_CASE("scores are one finite number per row, the same again, with times and version") {
    Live live;
    const auto several = live.client.predict(Rows(live.model, 5, 1).request()).scores;
    REQUIRE(several.size() == 5);
    for (const auto score : several) CHECK((score > 0 && score < 1));
    const Rows rows(live.model, 1, 1);
    const auto reply = live.client.predict(rows.request());
    CHECK(reply.bucket_rows >= reply.rows_filled);
    CHECK(reply.version == live.client.health().version);
    CHECK(reply.times.server_us > 0);
    CHECK(reply.round_trip_us > reply.times.server_us);
    check_same(live.client.predict(rows.request()), reply);
}

TEST_CASE("bags of one id each score as those ids do") {
    Live live;
    const Rows rows(live.model, 4, 2);
    const std::vector<std::int32_t> lengths(rows.ids.size(), 1);
    const auto bags = Features::bags(4, rows.dense, lengths, rows.ids);
    check_same(live.client.predict(bags), live.client.predict(rows.request()));
}

// The first half of columns and features is the user's: that of row 0, in every row.
struct UserOnce {
    UserOnce(const ModelShape& model, std::size_t count) : rows(model, count, 3) {
        const auto columns = model.dense_width / 2, features = model.feature_rows.size() / 2;
        split(rows.dense, model.dense_width, columns, dense, user_dense);
        split(rows.ids, model.feature_rows.size(), features, ids, user_ids);
        dense_mask.resize(model.dense_width);
        feature_mask.resize(model.feature_rows.size());
        std::fill_n(dense_mask.begin(), columns, true);
        std::fill_n(feature_mask.begin(), features, true);
    }

    template <typename T>
    static void split(std::vector<T>& all, std::size_t width, std::size_t shared, std::vector<T>& own,
                      std::vector<T>& user) {
        for (std::size_t at = 0; at < all.size(); ++at) {
            const auto column = at % width;
            if (column < shared) all[at] = all[column];
            if (column >= shared) own.push_back(all[at]);
            if (at < shared) user.push_back(all[at]);
        }
    }

    Rows rows;
    std::vector<float> dense, user_dense;
    std::vector<std::int64_t> ids, user_ids;
    std::vector<bool> dense_mask, feature_mask;
};

TEST_CASE("a user's part sent once gives the same scores") {
    Live live;
    for (const std::size_t count : {1, 6}) {
        const UserOnce once(live.model, count);
        const auto user = UserPart::one_hot(once.dense_mask, once.feature_mask, once.user_dense, once.user_ids);
        Request request(Features::one_hot(count, once.dense, once.ids));
        request.user = &user;
        check_same(live.client.predict(request), live.client.predict(once.rows.request()));
    }
}

TEST_CASE("what the server will not score is refused with its status") {
    Live live;
    Rows rows(live.model, 2, 4);
    auto request = rows.request();
    request.model = "no such model";
    CHECK(refused(live.client, request) == Status::unknown_model);
    rows.ids[0] = static_cast<std::int64_t>(live.model.feature_rows[0]);
    CHECK(refused(live.client, rows.request()) == Status::out_of_range);
    rows.ids[0] = 0;
    rows.dense[0] = std::nanf("");
    CHECK(refused(live.client, rows.request()) == Status::not_finite);
    const Rows many(live.model, live.model.rows_max + 1, 5);
    CHECK(refused(live.client, many.request()) == Status::too_large);
    const std::vector<float> narrow(2 * (live.model.dense_width + 1));
    CHECK(refused(live.client, Features::one_hot(2, narrow, rows.ids)) == Status::invalid);
    rows.dense[0] = 0;
    CHECK(live.client.predict(rows.request()).scores.size() == 2);
}

TEST_CASE("a budget that cannot be met is refused in time") {
    Live live;
    const Rows rows(live.model, 50, 6);
    auto request = rows.request();
    request.deadline_us = 1;
    const auto status = refused(live.client, request);
    CHECK((status == Status::would_miss || status == Status::deadline_exceeded));
}

TEST_CASE("many in flight each get the scores of their own rows") {
    Live live;
    std::map<std::uint64_t, Scores> expected;
    std::vector<Scores> alone;
    std::vector<Rows> rows;
    for (unsigned seed = 0; seed < 16; ++seed) {
        rows.emplace_back(live.model, 1 + seed, seed);
        alone.push_back(live.client.predict(rows.back().request()));
    }
    for (std::size_t round = 0; round < 400; ++round) {
        expected.emplace(live.client.submit(rows[round % rows.size()].request()), alone[round % rows.size()]);
    }
    while (!expected.empty()) {
        const auto completion = live.client.poll(20s);
        REQUIRE(completion);
        REQUIRE(std::holds_alternative<Scores>(completion->outcome));
        check_same(std::get<Scores>(completion->outcome), expected.at(completion->id));
        expected.erase(completion->id);
    }
    CHECK(live.client.inflight() == 0);
}

TEST_CASE("of those in the queue some are cancelled, and each has exactly one end") {
    Live live;
    const Rows rows(live.model, live.model.rows_max, 7);
    std::vector<std::uint64_t> ids;
    for (int count = 0; count < 16; ++count) ids.push_back(live.client.submit(rows.request()));
    for (const auto id : ids) live.client.cancel(id);
    std::size_t scored = 0, cancelled = 0;
    for (std::size_t ended = 0; ended < ids.size(); ++ended) {
        const auto completion = live.client.poll(20s);
        REQUIRE(completion);
        const auto* failure = std::get_if<Failure>(&completion->outcome);
        scored += failure == nullptr;
        cancelled += failure != nullptr && failure->is(Status::cancelled);
    }
    CHECK(scored + cancelled == ids.size());
    CHECK(cancelled > 0);
    CHECK_FALSE(live.client.poll(10ms));
}

}  // namespace
}  // namespace narsil::test
