#include <doctest/doctest.h>

#include "narsil/wire.hpp"

namespace narsil {
namespace {

const std::vector<float> dense(6);
const std::vector<std::int32_t> ids(4);

TEST_CASE("arrays that are not so many rows are no features") {
    CHECK_THROWS_AS(Features::one_hot(0, dense, ids), std::invalid_argument);
    CHECK_THROWS_AS(Features::one_hot(4, dense, ids), std::invalid_argument);
    CHECK_THROWS_AS(Features::bags(3, dense, ids, ids), std::invalid_argument);
    const auto features = Features::one_hot(2, dense, ids);
    CHECK(features.dense_width() == 3);
    CHECK(features.features() == 2);
}

TEST_CASE("a request without a column or a feature is not sent") {
    CHECK_THROWS_AS(wire::encode_request(1, Features::one_hot(2, {}, ids)), std::invalid_argument);
    CHECK_THROWS_AS(wire::encode_request(1, Features::one_hot(2, dense, View<std::int32_t>())), std::invalid_argument);
}

TEST_CASE("a deadline of nothing, a long traceparent, key or name, or bytes that are no text are not sent") {
    Request request(Features::one_hot(2, dense, ids));
    request.deadline_us = 0;
    CHECK_THROWS_AS(wire::encode_request(1, request), std::invalid_argument);
    request.deadline_us = 1;
    request.traceparent = std::string(65, 'x');
    CHECK_THROWS_AS(wire::encode_request(1, request), std::invalid_argument);
    request.traceparent = std::string(64, 'x');
    CHECK(wire::encode_request(1, request).size() == 3);
    request.key = std::string(65, 'x');
    CHECK_THROWS_AS(wire::encode_request(1, request), std::invalid_argument);
    request.key = "\xff";
    CHECK_THROWS_AS(wire::encode_request(1, request), std::invalid_argument);
    request.key = std::string(64, 'x');
    CHECK(wire::encode_request(1, request).size() == 3);
    request.model = std::string(5000, 'x');
    CHECK_THROWS_AS(wire::encode_request(1, request), std::invalid_argument);
    request.model = "\xff";
    CHECK_THROWS_AS(wire::encode_request(1, request), std::invalid_argument);
}

TEST_CASE("a user's part has as much as its masks say, and the rows have the rest") {
    const std::vector<float> one(1);
    const std::vector<std::int64_t> two(2);
    CHECK_THROWS_AS(UserPart::one_hot({true, true}, {true}, one, ids), std::invalid_argument);
    const auto user = UserPart::one_hot({true, false, false, false}, {true, true, false, false}, one, two);
    Request request(Features::one_hot(2, dense, ids));
    request.user = &user;
    CHECK(wire::encode_request(1, request).size() == 5);
    const auto wider = UserPart::one_hot({true, false, false, false, false}, {true, true, false, false}, one, two);
    request.user = &wider;
    CHECK_THROWS_AS(wire::encode_request(1, request), std::invalid_argument);
}

TEST_CASE("masks are packed from the lowest bit") {
    std::vector<bool> mask(9);
    mask[0] = mask[3] = mask[8] = true;
    const std::vector<float> three(3);
    const auto user = UserPart::one_hot(mask, {false}, three, View<std::int32_t>());
    CHECK(user.dense_mask() == std::string("\x09\x01", 2));
    CHECK(user.feature_mask() == std::string(1, '\0'));
}

}  // namespace
}  // namespace narsil
