#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>

#include "report.hpp"
#include "run.hpp"
#include "settings.hpp"

namespace {

using namespace narsil::load;

// Where the JSON is on standard output, nothing else is.
void write(const Settings& settings, const nlohmann::ordered_json& result) {
    if (settings.json == "-") {
        std::cout << result.dump() << '\n';
        std::cerr << to_text(result);
        return;
    }
    std::cout << to_text(result);
    if (settings.json.empty()) return;
    std::ofstream file(settings.json);
    if (!(file << result.dump() << '\n' << std::flush)) throw std::runtime_error("cannot write " + settings.json);
}

int load(const Settings& settings) {
    try {
        const Outcome outcome = run(settings);
        write(settings, to_json(settings, outcome.shape, outcome.version, outcome.tally));
        if (outcome.tally.scored) return 0;
        const std::string& why = outcome.tally.complaint;
        std::cerr << "narsil-load: no request was scored" << (why.empty() ? "" : ": " + why) << '\n';
    } catch (const std::invalid_argument& error) {
        // An endpoint or a key that is none.
        std::cerr << "narsil-load: " << error.what() << '\n';
        return 2;
    } catch (const std::exception& error) {
        std::cerr << "narsil-load: " << error.what() << '\n';
    }
    return 1;
}

}  // namespace

int main(int count, char** arguments) {
    try {
        const auto settings = parse_settings(count, arguments);
        return settings ? load(*settings) : 0;
    } catch (const UsageError& error) {
        std::cerr << "narsil-load: " << error.what() << '\n';
        return 2;
    }
}
