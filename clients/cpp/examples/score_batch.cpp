// Scores 100 random rows: score_batch [ENDPOINT ...]
#include <cstdio>
#include <random>

#include "narsil/client.hpp"

int main(int argc, char** argv) try {
    narsil::Options options;
    options.endpoints.assign(argv + 1, argv + argc);
    if (options.endpoints.empty()) options.endpoints = {"tcp://127.0.0.1:5555"};
    narsil::Client client(options);

    const auto model = narsil::shape_of(client.metadata());
    std::mt19937 random(0);
    std::uniform_real_distribution<float> number;
    std::vector<float> dense;
    std::vector<std::int64_t> ids;
    for (int row = 0; row < 100; ++row) {
        for (std::size_t i = 0; i < model.dense_width; ++i) dense.push_back(number(random));
        for (const auto rows : model.feature_rows) ids.push_back(static_cast<std::int64_t>(random() % rows));
    }

    narsil::Request request(narsil::Features::one_hot(100, dense, ids));
    request.deadline_us = 1'000'000;
    const auto reply = client.predict(request);
    for (int row = 0; row < 5; ++row) std::printf("%.6f\n", reply.scores[row]);
    std::printf("version %s, bucket %llu, %.0f us at the server, %.0f us in all\n", reply.version.c_str(),
                static_cast<unsigned long long>(reply.bucket_rows), reply.times.server_us, reply.round_trip_us);
} catch (const narsil::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
