#include "run.hpp"

#include <list>
#include <optional>
#include <thread>
#include <utility>

#include "narsil/client.hpp"
#include "narsil/model_shape.hpp"
#include "worker.hpp"

namespace narsil::load {
namespace {

Shape served_shape(const Metadata& metadata) {
    const ModelShape model = shape_of(metadata);
    Shape shape{static_cast<std::uint32_t>(model.dense_width), {}};
    for (const std::uint64_t rows : model.feature_rows) {
        // Never cuts: a table of more rows cannot be served.
        shape.table_rows.push_back(static_cast<std::uint32_t>(rows));
    }
    return shape;
}

// A worker and what its thread leaves; in a list, for threads hold on to it.
struct Post {
    Post(const Settings& settings, const Inputs& inputs, std::uint32_t index) : worker(settings, inputs, index) {}

    Worker worker;
    std::variant<Tally, std::string> result;
    std::thread thread;
};

}  // namespace

Outcome run(const Settings& settings) {
    Client asking(client_options(settings, nullptr));
    Outcome outcome;
    if (settings.shape) {
        outcome.shape = *settings.shape;
        outcome.version = asking.health().version;
    } else {
        const Metadata metadata = asking.metadata();
        outcome.shape = served_shape(metadata);
        outcome.version = metadata.version;
    }
    const Inputs inputs(outcome.shape, rows_max(settings.sizes), settings.seed);
    std::list<Post> posts;
    for (std::uint32_t index = 0; index < settings.threads; ++index) posts.emplace_back(settings, inputs, index);
    const TimePoint start = Clock::now();
    for (Post& post : posts) {
        post.thread = std::thread([&post, start] { post.result = post.worker.run(start); });
    }
    for (Post& post : posts) post.thread.join();
    for (Post& post : posts) {
        if (const auto* failure = std::get_if<std::string>(&post.result)) throw Error(*failure);
        outcome.tally.add(std::get<Tally>(post.result));
    }
    return outcome;
}

}  // namespace narsil::load
