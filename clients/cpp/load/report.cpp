#include "report.hpp"

#include <cstdio>

namespace narsil::load {
namespace {

using Json = nlohmann::ordered_json;

double us(double ns) { return ns / 1000.0; }
double us(std::uint64_t ns) { return static_cast<double>(ns) / 1000.0; }

Json quantiles(const Histogram& times) {
    return {{"count", times.count()},     {"min", us(times.min())},      {"mean", us(times.mean())},
            {"p50", us(times.at(0.5))},   {"p90", us(times.at(0.9))},    {"p95", us(times.at(0.95))},
            {"p99", us(times.at(0.99))},  {"p999", us(times.at(0.999))}, {"p9999", us(times.at(0.9999))},
            {"max", us(times.max())}};
}

Json config(const Settings& settings) {
    Json open = {{"rate_per_s", settings.rate_per_s},
                 {"arrivals", settings.arrivals == Arrivals::fixed ? "fixed" : "poisson"},
                 {"window", settings.window}};
    return {{"endpoints", settings.endpoints},
            {"loop", settings.closed ? "closed" : "open"},
            {"open", settings.closed ? Json() : open},
            {"closed", settings.closed ? Json{{"in_flight", settings.closed}} : Json()},
            {"connections", settings.connections},
            {"threads", settings.threads},
            {"sizes", settings.sizes_text},
            {"model", settings.model},
            {"deadline_us", settings.deadline_us ? Json(*settings.deadline_us) : Json()},
            {"priority", settings.bulk ? "bulk" : "interactive"},
            {"seed", settings.seed},
            {"warm_up_s", settings.warm_up_s},
            {"duration_s", settings.duration_s},
            {"timeout_ms", settings.timeout_ms},
            {"curve", !settings.server_key.empty()}};
}

std::uint64_t total(const std::map<std::string, std::uint64_t>& counts) {
    std::uint64_t sum = 0;
    for (const auto& entry : counts) sum += entry.second;
    return sum;
}

// Nothing where there were no such times.
std::string line(const char* name, const Json& times) {
    if (times["count"] == 0) return "";
    char text[160];
    std::snprintf(text, sizeof text, "%-12s p50 %9.1f  p90 %9.1f  p99 %9.1f  p99.9 %9.1f  max %9.1f us  (%llu)\n", name,
                  times["p50"].get<double>(), times["p90"].get<double>(), times["p99"].get<double>(),
                  times["p999"].get<double>(), times["max"].get<double>(), times["count"].get<unsigned long long>());
    return text;
}

}  // namespace

Json to_json(const Settings& settings, const Shape& shape, const std::string& version, const Tally& tally) {
    Json stages = Json::object();
    for (std::size_t stage = 0; stage < stage_names.size(); ++stage) {
        stages[stage_names[stage]] = quantiles(tally.stages[stage]);
    }
    Json cells = Json::array();
    for (const auto& cell : tally.latency.cells()) cells.push_back({us(cell.top), cell.count});
    return {{"narsil_load", 1},
            {"config", config(settings)},
            {"server", {{"version", version}, {"dense", shape.dense}, {"features", shape.table_rows.size()}}},
            {"requests",
             {{"warm_up", tally.warm_up_requests},
              {"intended", tally.intended},
              {"sent", tally.sent},
              {"held", tally.held},
              {"scored", tally.scored},
              {"refused", total(tally.refused)},
              {"failed", total(tally.failed)},
              {"unsent", tally.unsent}}},
            {"refused", Json(tally.refused)},
            {"failed", Json(tally.failed)},
            {"scored_per_s", static_cast<double>(tally.scored_in_time) / settings.duration_s},
            {"rows_per_s", static_cast<double>(tally.rows_in_time) / settings.duration_s},
            {"latency_us", quantiles(tally.latency)},
            {"round_trip_us", quantiles(tally.round_trip)},
            {"send_late_us", quantiles(tally.lateness)},
            {"refusal_us", quantiles(tally.refusal)},
            {"stages_us", stages},
            {"latency_histogram_us", cells}};
}

std::string to_text(const Json& result) {
    const Json& requests = result["requests"];
    char text[240];
    std::snprintf(text, sizeof text, "%s loop: %.1f requests/s and %.0f rows/s scored in %.6g s\n",
                  result["config"]["loop"].get_ref<const std::string&>().c_str(), result["scored_per_s"].get<double>(),
                  result["rows_per_s"].get<double>(), result["config"]["duration_s"].get<double>());
    std::string lines = text;
    lines += "requests    ";
    for (const auto& [name, count] : requests.items()) lines += " " + name + " " + count.dump();
    lines += "\n";
    for (const char* what : {"refused", "failed"}) {
        if (result[what].empty()) continue;
        lines += std::string(what) + "     ";
        for (const auto& [name, count] : result[what].items()) lines += " " + name + " " + count.dump();
        lines += "\n";
    }
    lines += line("latency", result["latency_us"]);
    lines += line("round trip", result["round_trip_us"]);
    lines += line("sent late", result["send_late_us"]);
    lines += line("refusal", result["refusal_us"]);
    for (const auto& [name, times] : result["stages_us"].items()) lines += line(("  " + name).c_str(), times);
    return lines;
}

}  // namespace narsil::load
