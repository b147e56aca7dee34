// CURVE: which server is the right one, and who we are.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <string>

namespace narsil {

// The server's public key, 40 Z85 characters, and the path of our NAME.key_secret, which only its owner may read.
struct Curve {
    std::string server_key;
    std::string secret_key_file;
};

namespace detail {

inline constexpr std::size_t key_characters = 40;
inline constexpr std::size_t key_file_bytes_max = 4096;

struct CurveKeys {
    std::string server, own_public, own_secret;
};

// Open file, closed at the end of its block.
class Descriptor {
public:
    // A pipe would otherwise wait here for somebody to write.
    explicit Descriptor(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
        if (fd_ < 0) throw std::invalid_argument("cannot read " + path + ": " + std::strerror(errno));
    }
    ~Descriptor() { ::close(fd_); }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;

    int fd() const { return fd_; }

private:
    int fd_;
};

inline bool is_key(const std::string& text) {
    std::array<std::uint8_t, 32> bytes{};
    // libzmq decodes as far as the first NUL.
    return text.size() == key_characters && std::strlen(text.c_str()) == key_characters &&
           zmq_z85_decode(bytes.data(), text.c_str()) != nullptr;
}

// The one key in a file's text: blank lines and lines that begin with "# " are comments.
inline std::string key_in(const std::string& text, const std::string& path) {
    std::istringstream lines(text);
    std::string key;
    std::size_t found = 0;
    for (std::string line; std::getline(lines, line);) {
        line.erase(0, std::min(line.size(), line.find_first_not_of(" \t\r")));
        line.erase(line.find_last_not_of(" \t\r") + 1);
        if (line.empty() || line.rfind("# ", 0) == 0) continue;
        key = line;
        ++found;
    }
    if (found != 1 || !is_key(key)) {
        throw std::invalid_argument(path + " holds no CURVE key: want one line of 40 Z85 characters");
    }
    return key;
}

inline std::string read_secret_key(const std::string& path) {
    const Descriptor file(path);
    // Of the open file, not of the path: what was checked is what is read.
    struct stat status {};
    if (::fstat(file.fd(), &status) != 0 || !S_ISREG(status.st_mode)) {
        throw std::invalid_argument(path + " is not a file");
    }
    if ((status.st_mode & 077) != 0) {
        throw std::invalid_argument(path + " is open to others than its owner: chmod 600 " + path);
    }
    std::string text(key_file_bytes_max + 1, '\0');
    const auto size = ::read(file.fd(), text.data(), text.size());
    if (size < 0 || static_cast<std::size_t>(size) > key_file_bytes_max) {
        throw std::invalid_argument(path + " holds no CURVE key: want one line of 40 Z85 characters");
    }
    text.resize(static_cast<std::size_t>(size));
    return key_in(text, path);
}

// Throws std::invalid_argument, in one sentence that never holds a key.
inline CurveKeys curve_keys(const Curve& curve) {
    if (zmq_has("curve") == 0) throw std::invalid_argument("the installed libzmq was built without CURVE");
    if (!is_key(curve.server_key)) throw std::invalid_argument("server_key wants a CURVE key of 40 Z85 characters");
    CurveKeys keys{curve.server_key, std::string(key_characters + 1, '\0'), read_secret_key(curve.secret_key_file)};
    if (zmq_curve_public(keys.own_public.data(), keys.own_secret.c_str()) != 0) {
        throw std::invalid_argument(curve.secret_key_file + " holds no usable secret key");
    }
    keys.own_public.resize(key_characters);
    return keys;
}

}  // namespace detail
}  // namespace narsil
