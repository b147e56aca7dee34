// The golden frames: what each says, and its bytes.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "narsil/client.hpp"

namespace narsil::test {

using Json = nlohmann::json;

struct Golden {
    std::string name;
    std::string reader;
    Json meaning;
    std::vector<std::string> frames;

    std::vector<std::string_view> views() const { return {frames.begin(), frames.end()}; }
    std::string type() const { return meaning.at("type"); }
};

inline std::string file(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

inline std::vector<Golden> golden(const std::string& reader) {
    std::vector<Golden> found;
    for (const auto& entry : std::filesystem::directory_iterator(NARSIL_GOLDEN_FRAMES)) {
        if (entry.path().extension() != ".json") continue;
        const auto json = Json::parse(file(entry.path()));
        if (json.at("reader") != reader) continue;
        Golden message{entry.path().stem(), reader, json.at("meaning"), {}};
        for (int index = 0; index < json.at("frames"); ++index) {
            auto path = entry.path();
            message.frames.push_back(file(path.replace_extension(std::to_string(index) + ".bin")));
        }
        found.push_back(std::move(message));
    }
    return found;
}

inline std::vector<std::string> bytes(const wire::Message& message) {
    std::vector<std::string> frames;
    for (const auto& frame : message) frames.push_back(frame.to_string());
    return frames;
}


}  // namespace narsil::test
