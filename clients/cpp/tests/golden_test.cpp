#include <doctest/doctest.h>

#include <map>
#include <set>
#include <sstream>

#include "golden.hpp"

namespace narsil::test {
namespace {

Json optional(const std::optional<std::uint64_t>& value) { return value ? Json(*value) : Json(); }

Json floats(const std::vector<float>& values) {
    return {{"dtype", "f4"}, {"shape", {values.size()}}, {"values", values}};
}

Json described(const msgpack::object& object) {
    std::ostringstream text;
    text << object;
    return Json::parse(text.str());
}

// What Python's generator says of a reply, of this one.
struct Describe {
    Json operator()(const Scores& scores) const {
        const auto& times = scores.times;
        return {{"type", "ScoresReply"},
                {"bucket_rows", scores.bucket_rows},
                {"rows_filled", scores.rows_filled},
                {"times", {{"queue_us", times.queue_us}, {"fill_us", times.fill_us}, {"launch_us", times.launch_us},
                           {"read_us", times.read_us}, {"server_us", times.server_us}}},
                {"traceparent", scores.traceparent.empty() ? Json() : Json(scores.traceparent)},
                {"variant", scores.variant.empty() ? Json() : Json(scores.variant)},
                {"scores", floats(scores.scores)}};
    }
    Json operator()(const Refusal& refusal) const {
        return {{"type", "RefusalReply"},
                {"refusal", {{"type", "Refusal"}, {"status", name(refusal.status)}, {"detail", refusal.detail},
                             {"retry_after_us", optional(refusal.retry_after_us)},
                             {"predicted_us", optional(refusal.predicted_us)}}}};
    }
    Json operator()(const Health& health) const {
        return {{"type", "HealthReply"}, {"state", health.draining ? "DRAINING" : "READY"},
                {"inflight", health.inflight}, {"uptime_s", health.uptime_s}};
    }
    Json operator()(const Metadata& metadata) const {
        return {{"type", "MetadataReply"}, {"meta", described(metadata.meta->get())}};
    }
    Json operator()(const wire::Attached& attached) const {
        return {{"type", "AttachReply"}, {"segment", attached.segment}};
    }
};

Json read(const Golden& message) {
    try {
        const auto reply = wire::decode_reply(message.views());
        auto meaning = std::visit(Describe{}, reply.body);
        meaning["request_id"] = reply.id;
        meaning["version"] = reply.version;
        meaning["window"] = optional(reply.window);
        return meaning;
    } catch (const WireError&) {
        return {{"type", "WireError"}};
    }
}

template <typename T>
std::vector<T> array(const Json& tensor) {
    return tensor.is_null() ? std::vector<T>() : tensor.at("values").get<std::vector<T>>();
}

// The arrays of a golden request, for the views of one that is built again.
struct Arrays {
    explicit Arrays(const Json& part)
        : dense(array<float>(part.at("dense"))), lengths(array<std::int32_t>(part.at("lengths"))) {
        const auto& keys = part.at("ids").is_null() ? part.at("values") : part.at("ids");
        wide = keys.at("dtype") == "i8";
        bags = part.at("ids").is_null();
        if (wide) ids8 = array<std::int64_t>(keys);
        if (!wide) ids4 = array<std::int32_t>(keys);
    }

    Ids ids() const { return wide ? Ids(View<std::int64_t>(ids8)) : Ids(View<std::int32_t>(ids4)); }

    std::vector<float> dense;
    std::vector<std::int32_t> lengths, ids4;
    std::vector<std::int64_t> ids8;
    bool wide = false, bags = false;
};

std::vector<bool> mask(const Json& tensor) { return tensor.at("values").get<std::vector<bool>>(); }

UserPart user_part(const Json& user, const Arrays& arrays) {
    const auto columns = mask(user.at("dense_mask")), features = mask(user.at("feature_mask"));
    if (arrays.bags) return UserPart::bags(columns, features, arrays.dense, arrays.lengths, arrays.ids());
    return UserPart::one_hot(columns, features, arrays.dense, arrays.ids());
}

std::vector<std::string> written(const Json& meaning) {
    const Arrays arrays(meaning);
    const auto rows = meaning.at("dense").at("shape").at(0).get<std::size_t>();
    Request request(arrays.bags ? Features::bags(rows, arrays.dense, arrays.lengths, arrays.ids())
                                : Features::one_hot(rows, arrays.dense, arrays.ids()));
    request.model = meaning.at("model");
    if (!meaning.at("deadline_us").is_null()) request.deadline_us = meaning.at("deadline_us").get<std::uint64_t>();
    if (!meaning.at("traceparent").is_null()) request.traceparent = meaning.at("traceparent");
    if (!meaning.at("key").is_null()) request.key = meaning.at("key");
    if (meaning.at("priority") == "BULK") request.priority = Priority::bulk;
    const auto& user = meaning.at("user");
    const auto id = meaning.at("request_id").get<std::uint64_t>();
    if (user.is_null()) return bytes(wire::encode_request(id, request));
    const Arrays users(user);
    const auto part = user_part(user, users);
    request.user = &part;
    return bytes(wire::encode_request(id, request));
}

std::vector<std::string> written_bare(const Golden& message) {
    static const std::map<std::string, wire::Operation> operations{{"HEALTH", wire::Operation::health},
                                                                   {"METADATA", wire::Operation::metadata}};
    const auto operation =
        message.type() == "CancelRequest" ? wire::Operation::cancel : operations.at(message.meaning.at("operation"));
    return {wire::encode_bare(message.meaning.at("request_id"), operation).to_string()};
}

// A message that no encoder writes so, though each reads it, or that says where its tensors lie in shared memory.
bool another_spelling(const Golden& message) {
    static const std::set<std::string> names{"priority_zero", "unknown_key_is_ignored"};
    return names.count(message.name) > 0 || message.name.find("segment") != std::string::npos;
}

TEST_CASE("every golden reply is read as Python reads it") {
    const auto messages = golden("reply");
    REQUIRE(messages.size() > 20);
    for (const auto& message : messages) {
        INFO(message.name);
        CHECK(read(message) == message.meaning);
    }
}

TEST_CASE("every golden request is written as Python writes it") {
    std::size_t count = 0;
    for (const auto& message : golden("request")) {
        if (another_spelling(message)) continue;
        INFO(message.name);
        if (message.type() == "InferRequest") {
            CHECK(written(message.meaning) == message.frames);
        } else if (message.type() == "ControlRequest" || message.type() == "CancelRequest") {
            CHECK(written_bare(message) == message.frames);
        } else {
            continue;
        }
        ++count;
    }
    CHECK(count > 12);
}

TEST_CASE("every status has its golden refusal") {
    std::set<std::string> seen;
    for (const auto& message : golden("reply")) {
        if (message.type() == "RefusalReply") seen.insert(message.meaning.at("refusal").at("status"));
    }
    for (int status = 1; status <= static_cast<int>(Status::unauthorized); ++status) {
        CHECK(seen.count(name(static_cast<Status>(status))) == 1);
    }
}

}  // namespace
}  // namespace narsil::test
