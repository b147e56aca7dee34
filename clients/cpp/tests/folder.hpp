// A folder that is gone when its test ends.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace narsil::test {

struct Folder {
    Folder() {
        std::string name = std::filesystem::temp_directory_path() / "narsil-XXXXXX";
        path = ::mkdtemp(name.data());
    }
    ~Folder() { std::filesystem::remove_all(path); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;

    std::string path;
};

}  // namespace narsil::test
