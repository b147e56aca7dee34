#include <doctest/doctest.h>

#include <random>

#include "golden.hpp"
#include "replies.hpp"

namespace narsil::test {
namespace {

// Whether it is a reply; anything but a WireError ends the test.
bool decodes(const Frames& frames) {
    try {
        wire::decode_reply(views(frames));
        return true;
    } catch (const WireError&) {
        return false;
    }
}

std::string random_bytes(std::mt19937& random, std::size_t size) {
    std::string bytes(size, '\0');
    for (auto& byte : bytes) byte = static_cast<char>(random());
    return bytes;
}

void mutate(std::mt19937& random, std::string& bytes) {
    const auto at = bytes.empty() ? 0 : random() % bytes.size();
    switch (random() % 4) {
        case 0: bytes.insert(at, random_bytes(random, 1 + random() % 4)); break;
        case 1: bytes.erase(at, 1 + random() % 4); break;
        case 2: bytes.resize(at); break;
        default:
            if (!bytes.empty()) bytes[at] = static_cast<char>(random());
    }
}

TEST_CASE("random bytes behind a good start are a reply or an error, never a crash") {
    std::mt19937 random(1);
    for (int round = 0; round < 20000; ++round) {
        const std::string start = std::string("NG\x01") + "\x80\x81\x82\x83\x86"[random() % 5];
        decodes({start + random_bytes(random, random() % 64), random_bytes(random, random() % 9)});
        decodes({start + random_bytes(random, random() % 64)});
        decodes({random_bytes(random, random() % 16)});
    }
}

TEST_CASE("golden replies with a few bytes changed are a reply or an error, never a crash") {
    std::mt19937 random(2);
    const auto messages = golden("reply");
    std::size_t good = 0;
    for (int round = 0; round < 40000; ++round) {
        auto frames = messages[random() % messages.size()].frames;
        for (auto changes = 1 + random() % 3; changes > 0; --changes) mutate(random, frames[random() % frames.size()]);
        good += decodes(frames);
    }
    // Some are still replies: the changes do not all break the first bytes.
    CHECK(good > 1000);
}

TEST_CASE("an array that claims four billion elements is refused before it is allocated") {
    const std::string start = "NG\x01\x83";
    CHECK_FALSE(decodes({start + "\xdd\xff\xff\xff\xff"}));
    CHECK_FALSE(decodes({start + "\xdf\xff\xff\xff\xff"}));
    CHECK_FALSE(decodes({start + std::string("\xdb\xff\xff\xff\xff", 5)}));
}

TEST_CASE("arrays in arrays are refused beyond a bounded depth") {
    std::string nested = std::string("NG\x01\x82\x81\xa1x", 7);
    for (int level = 0; level < 100000; ++level) nested += '\x91';
    CHECK_FALSE(decodes({nested + '\x01'}));
}

TEST_CASE("a header of more than a mebibyte is refused") {
    CHECK_FALSE(decodes({"NG\x01\x80" + std::string(1 << 20, '\xc0') + '\xc0'}));
}

TEST_CASE("bytes behind the map, text that is not UTF-8 and numbers of the wrong kind are refused") {
    const auto good = refusal_reply(1, Status::invalid)[0];
    CHECK(decodes({good}));
    CHECK_FALSE(decodes({good + '\xc0'}));
    CHECK_FALSE(decodes(refusal_reply(1, Status::invalid, "\xc3\x28")));
    CHECK_FALSE(decodes(refusal_reply(1, Status::invalid, "\xed\xa0\x80")));
    CHECK(decodes(refusal_reply(1, Status::invalid, "\xf0\x9f\x91\x8d \xe2\x82\xac")));
    CHECK_FALSE(decodes({ReplyHeader('\x82', 3, 1, 0)
                             .with("state", std::string("ready")).with("inflight", -1).with("uptime_s", 1.5).bytes()}));
    CHECK_FALSE(decodes({ReplyHeader('\x82', 3, 1, 0)
                             .with("state", std::string("asleep")).with("inflight", 1).with("uptime_s", 1.5).bytes()}));
}

TEST_CASE("a status of a newer server is read as internal, with its number") {
    const auto reply = wire::decode_reply(views(refusal_reply(1, static_cast<Status>(99), "new")));
    const auto& refusal = std::get<Refusal>(reply.body);
    CHECK(refusal.status == Status::internal);
    CHECK(refusal.detail == "status 99: new");
}

TEST_CASE("a score frame of no whole number of floats is refused") {
    auto frames = scores_reply(1, {0.5F});
    CHECK(decodes(frames));
    frames[1].pop_back();
    CHECK_FALSE(decodes(frames));
    frames.pop_back();
    CHECK_FALSE(decodes(frames));
}

}  // namespace
}  // namespace narsil::test
