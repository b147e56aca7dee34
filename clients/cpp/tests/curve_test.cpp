#include <doctest/doctest.h>
#include <sys/stat.h>

#include <fstream>

#include "folder.hpp"
#include "narsil/curve.hpp"

namespace narsil::test {
namespace {

const std::string secret = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs";
const std::string public_of_secret = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";

std::string refusal(const Curve& curve) {
    try {
        detail::curve_keys(curve);
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
    return "";
}

struct KeyFile {
    KeyFile(const std::string& text, mode_t mode) : path(folder.path + "/me.key_secret") {
        std::ofstream(path) << text;
        ::chmod(path.c_str(), mode);
    }
    Curve curve() const { return {public_of_secret, path}; }

    Folder folder;
    std::string path;
};

TEST_CASE("a secret key file is one key, with comments and blank lines around it") {
    const KeyFile file("# secret CURVE key of me\n\n  " + secret + "\r\n", 0600);
    const auto keys = detail::curve_keys(file.curve());
    CHECK(keys.own_secret == secret);
    CHECK(keys.own_public == public_of_secret);
}

TEST_CASE("a secret key file that others may read is refused, and says what to do") {
    for (const mode_t mode : {0640, 0604, 0610}) {
        const KeyFile file(secret, mode);
        CHECK(refusal(file.curve()) == file.path + " is open to others than its owner: chmod 600 " + file.path);
    }
}

TEST_CASE("what is no key file is refused without a word of what it holds") {
    const std::string empty, two = secret + "\n" + secret, other(40, '"'), endless(5000, '#');
    for (const auto& text : {empty, secret.substr(1), two, other, endless}) {
        const KeyFile file(text, 0600);
        CHECK(refusal(file.curve()) == file.path + " holds no CURVE key: want one line of 40 Z85 characters");
    }
    const Folder folder;
    CHECK(refusal({public_of_secret, folder.path}) == folder.path + " is not a file");
    const auto none = folder.path + "/none";
    CHECK(refusal({public_of_secret, none}) == "cannot read " + none + ": No such file or directory");
}

TEST_CASE("a server key that is none is refused") {
    const KeyFile file(secret, 0600);
    CHECK(refusal({"", file.path}) == "server_key wants a CURVE key of 40 Z85 characters");
    CHECK(refusal({std::string(40, '\0'), file.path}) == "server_key wants a CURVE key of 40 Z85 characters");
}

}  // namespace
}  // namespace narsil::test
