// What a request to a model has to look like, from METADATA.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "narsil/fields.hpp"
#include "narsil/replies.hpp"

namespace narsil {

struct ModelShape {
    std::uint64_t rows_max;                   // of one request
    std::size_t dense_width;                  // D
    std::vector<std::uint64_t> feature_rows;  // ids of feature i are below feature_rows[i]; its size is T
};

namespace detail {

inline const msgpack::object_array& list(const Fields& fields, const char* key) {
    const auto* value = fields.find(key);
    if (value == nullptr || value->type != msgpack::type::ARRAY) Fields::fail(key, "an array");
    return value->via.array;
}

inline ModelShape read_shape(const Fields& meta) {
    const auto* spec_object = meta.find("spec");
    if (spec_object == nullptr) Fields::fail("spec", "a map");
    const Fields spec(*spec_object);
    std::unordered_map<std::string, std::uint64_t> rows;
    for (const auto& table : list(spec, "tables")) rows[Fields(table).text("name")] = Fields(table).uint("rows");
    ModelShape shape{meta.uint("rows_max"), list(spec, "dense_features").size, {}};
    for (const auto& feature : list(spec, "sparse_features")) {
        const auto found = rows.find(Fields(feature).text("table"));
        if (found == rows.end()) Fields::fail("table", "the name of a table");
        shape.feature_rows.push_back(found->second);
    }
    return shape;
}

}  // namespace detail

// Throws Error where the metadata do not say.
inline ModelShape shape_of(const Metadata& metadata) {
    try {
        return detail::read_shape(detail::Fields(metadata.meta->get()));
    } catch (const WireError& error) {
        throw Error(std::string("the metadata describe no model: ") + error.what());
    }
}

}  // namespace narsil
