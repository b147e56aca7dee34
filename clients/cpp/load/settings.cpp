#include "settings.hpp"

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdint>
#include <limits>

#include "numbers.hpp"

namespace narsil::load {
namespace {

constexpr std::uint32_t connections_max = 4096;
constexpr std::uint32_t window_max = 65536;
constexpr std::uint32_t width_max = 1U << 16;
constexpr std::uint32_t table_rows_max = (1U << 31) - 1;
constexpr double seconds_max = 86400.0;
constexpr std::int64_t deadline_max_us = 86'400'000'000;

// What is not a setting as it stands.
struct Words {
    std::string arrivals = "poisson";
    std::string priority = "interactive";
    std::uint32_t dense = 0;
    std::uint32_t features = 0;
    std::vector<std::uint32_t> table_rows;
};

void add_load(CLI::App& app, Settings& found, Words& words) {
    app.add_option("ENDPOINT", found.endpoints, "Servers; every connection is a client of all of them.")->required();
    app.add_option("--rate", found.rate_per_s, "Open loop: requests a second, over all connections.");
    app.add_option("--arrivals", words.arrivals, "Open loop: poisson or fixed gaps.  [default: poisson]")
        ->check(CLI::IsMember({"poisson", "fixed"}));
    app.add_option("--window", found.window, "Open loop: requests a connection may leave unanswered.  [default: 64]")
        ->check(CLI::Range(1U, window_max));
    app.add_option("--closed", found.closed, "Closed loop: requests that each connection keeps in flight.")
        ->check(CLI::Range(1U, window_max));
    app.add_option("--connections", found.connections, "[default: 1]")->check(CLI::Range(1U, connections_max));
    app.add_option("--threads", found.threads, "Each has its own share of the connections.  [default: 1]")
        ->check(CLI::Range(1U, connections_max));
    app.add_option("--warm-up-s", found.warm_up_s, "Seconds that are not counted, first.  [default: 1]")
        ->check(CLI::Range(0.0, seconds_max));
    app.add_option("--duration-s", found.duration_s, "Seconds that are counted.  [default: 10]")
        ->check(CLI::Range(0.001, seconds_max));
    app.add_option("--seed", found.seed, "Of arrivals, sizes and inputs.  [default: 0]")
        ->check(CLI::Range(std::int64_t{0}, std::numeric_limits<std::int64_t>::max()));
    app.add_option("--json", found.json, "Write the result to this file; - is standard output.");
}

void add_requests(CLI::App& app, Settings& found, Words& words) {
    app.add_option("--sizes", found.sizes_text,
                   "constant:ROWS, lognormal:MEDIAN:SIGMA[:MAX] or mlperf.  [default: constant:100]");
    app.add_option("--dense", words.dense, "Dense columns of a row.  [default: (the server's)]")
        ->check(CLI::Range(1U, width_max));
    app.add_option("--table-rows", words.table_rows, "Rows of each feature's table: R,R,...  [default: (the server's)]")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check(CLI::Range(1U, table_rows_max));
    app.add_option("--features", words.features, "So many features, with one number in --table-rows for all.")
        ->check(CLI::Range(1U, width_max));
    app.add_option("--model", found.model, "The model's name.  [default: (the server's)]");
    app.add_option("--deadline-us", found.deadline_us, "The budget of each request.  [default: none]")
        ->check(CLI::Range(std::int64_t{1}, deadline_max_us));
    app.add_option("--priority", words.priority, "interactive or bulk.  [default: interactive]")
        ->check(CLI::IsMember({"interactive", "bulk"}));
    app.add_option("--timeout-ms", found.timeout_ms, "When a client gives a request up.  [default: 5000]")
        ->check(CLI::Range(1U, 3'600'000U));
    app.add_option("--server-key", found.server_key, "CURVE: the server's public key, Z85.");
    app.add_option("--secret-key", found.secret_key, "CURVE: the file of the client's secret key.");
}

void refuse_load(const Settings& found) {
    if ((found.rate_per_s != 0.0) == (found.closed != 0)) {
        throw UsageError("want either --rate, an open loop, or --closed, a closed one");
    }
    if (!std::isfinite(found.rate_per_s) || (!found.closed && (found.rate_per_s < 1e-3 || found.rate_per_s > 1e8))) {
        throw UsageError("want a --rate from 0.001 to 100000000");
    }
    if (found.threads > found.connections) {
        throw UsageError("want at least as many --connections as --threads");
    }
    if (found.server_key.empty() != found.secret_key.empty()) {
        throw UsageError("--server-key and --secret-key go together");
    }
}

std::optional<Shape> shape_of(const Words& words) {
    if (!words.dense && !words.features && words.table_rows.empty()) return std::nullopt;
    if (!words.dense || words.table_rows.empty()) throw UsageError("--dense and --table-rows go together");
    Shape shape{words.dense, words.table_rows};
    if (words.features) {
        if (words.table_rows.size() != 1) throw UsageError("--features wants one number in --table-rows");
        shape.table_rows.assign(words.features, words.table_rows[0]);
    }
    return shape;
}

}  // namespace

std::optional<Settings> parse_settings(int count, const char* const* arguments) {
    Settings found;
    Words words;
    CLI::App app("Load a narsil-graph server and measure it, from the time at which each request should be sent.",
                 "narsil-load");
    add_load(app, found, words);
    add_requests(app, found, words);
    try {
        app.parse(count, arguments);
    } catch (const CLI::CallForHelp& help) {
        app.exit(help);
        return std::nullopt;
    } catch (const CLI::ParseError& error) {
        throw UsageError(error.what());
    }
    refuse_load(found);
    found.arrivals = words.arrivals == "fixed" ? Arrivals::fixed : Arrivals::poisson;
    found.bulk = words.priority == "bulk";
    found.shape = shape_of(words);
    const auto sizes = parse_sizes(found.sizes_text);
    if (!sizes) throw UsageError("want --sizes constant:ROWS, lognormal:MEDIAN:SIGMA[:MAX] or mlperf");
    found.sizes = *sizes;
    return found;
}

}  // namespace narsil::load
