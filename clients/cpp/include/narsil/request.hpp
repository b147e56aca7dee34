// What a caller asks: views of the caller's arrays, checked when they are put together, copied when they are sent.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace narsil {

// `size` elements that somebody else owns and keeps until the request has been submitted.
template <typename T>
class View {
public:
    View() = default;
    View(const T* data, std::size_t size) : data_(data), size_(size) {}
    View(const std::vector<T>& owner) : View(owner.data(), owner.size()) {}
    View(std::vector<T>&&) = delete;  // it would be gone before it is sent

    const T* data() const { return data_; }
    std::size_t size() const { return size_; }

private:
    const T* data_ = nullptr;
    std::size_t size_ = 0;
};

using Ids = std::variant<View<std::int32_t>, View<std::int64_t>>;

inline std::size_t size(const Ids& ids) {
    return std::visit([](const auto& view) { return view.size(); }, ids);
}

// Bulk takes the room that interactive requests leave.
enum class Priority : std::uint8_t { interactive = 0, bulk = 1 };

// n rows in C order: dense [n, D] with one id per feature [n, T], or with bags: how many ids each has [n, T], and the
// ids themselves, row by row, in a row feature by feature. D and T follow from the sizes.
class Features {
public:
    // Throws std::invalid_argument where an array does not divide into `rows` rows.
    static Features one_hot(std::size_t rows, View<float> dense, Ids ids) {
        const auto count = size(ids);
        return {rows, dense, count, std::nullopt, ids};
    }
    static Features bags(std::size_t rows, View<float> dense, View<std::int32_t> lengths, Ids values) {
        return {rows, dense, lengths.size(), lengths, values};
    }

    std::size_t rows() const { return rows_; }
    std::size_t dense_width() const { return dense_.size() / rows_; }
    std::size_t features() const { return features_; }
    View<float> dense() const { return dense_; }
    const std::optional<View<std::int32_t>>& lengths() const { return lengths_; }
    const Ids& ids() const { return ids_; }  // the values where there are lengths

private:
    Features(std::size_t rows, View<float> dense, std::size_t keyed, std::optional<View<std::int32_t>> lengths, Ids ids)
        : rows_(rows), dense_(dense), lengths_(lengths), ids_(ids) {
        if (rows == 0) throw std::invalid_argument("want at least one row");
        if (dense.size() % rows != 0 || keyed % rows != 0) {
            throw std::invalid_argument(std::to_string(dense.size()) + " dense values and " + std::to_string(keyed) +
                                        (lengths ? " lengths" : " ids") + " are not " + std::to_string(rows) + " rows");
        }
        features_ = keyed / rows;
    }

    std::size_t rows_;
    std::size_t features_ = 0;
    View<float> dense_;
    std::optional<View<std::int32_t>> lengths_;
    Ids ids_;
};

// The user's columns and features, sent once for all rows; the request's Features then hold the others, in model order.
// A mask has one flag per dense column, or feature, of the model: whether it is the user's.
class UserPart {
public:
    // dense [Du] and ids [Tu], or lengths [Tu] and values, in model order; Du and Tu are the masks' counts.
    static UserPart one_hot(const std::vector<bool>& dense_mask, const std::vector<bool>& feature_mask,
                            View<float> dense, Ids ids) {
        return {dense_mask, feature_mask, dense, size(ids), std::nullopt, ids};
    }
    static UserPart bags(const std::vector<bool>& dense_mask, const std::vector<bool>& feature_mask, View<float> dense,
                         View<std::int32_t> lengths, Ids values) {
        return {dense_mask, feature_mask, dense, lengths.size(), lengths, values};
    }

    std::size_t dense_width() const { return dense_width_; }  // of the model: the user's and the others
    std::size_t features() const { return features_; }
    std::size_t user_features() const { return user_features_; }
    const std::string& dense_mask() const { return dense_mask_; }  // bit i at byte i/8, least significant first
    const std::string& feature_mask() const { return feature_mask_; }
    View<float> dense() const { return dense_; }
    const std::optional<View<std::int32_t>>& lengths() const { return lengths_; }
    const Ids& ids() const { return ids_; }

private:
    UserPart(const std::vector<bool>& dense_mask, const std::vector<bool>& feature_mask, View<float> dense,
             std::size_t keyed, std::optional<View<std::int32_t>> lengths, Ids ids)
        : dense_width_(dense_mask.size()),
          features_(feature_mask.size()),
          user_features_(keyed),
          dense_mask_(packed(dense_mask)),
          feature_mask_(packed(feature_mask)),
          dense_(dense),
          lengths_(lengths),
          ids_(ids) {
        const auto columns = count(dense_mask);
        const auto keys = count(feature_mask);
        if (columns != dense.size() || keys != keyed) {
            throw std::invalid_argument("the masks name " + std::to_string(columns) + " columns and " +
                                        std::to_string(keys) + " features of the user, given are " +
                                        std::to_string(dense.size()) + " and " + std::to_string(keyed));
        }
    }

    static std::size_t count(const std::vector<bool>& mask) {
        return static_cast<std::size_t>(std::count(mask.begin(), mask.end(), true));
    }

    static std::string packed(const std::vector<bool>& mask) {
        std::string bytes((mask.size() + 7) / 8, '\0');
        for (std::size_t i = 0; i < mask.size(); ++i) {
            if (mask[i]) bytes[i / 8] = static_cast<char>(bytes[i / 8] | (1 << (i % 8)));
        }
        return bytes;
    }

    std::size_t dense_width_, features_, user_features_;
    std::string dense_mask_, feature_mask_;
    View<float> dense_;
    std::optional<View<std::int32_t>> lengths_;
    Ids ids_;
};

// One request. Features and the rest are checked against each other when it is submitted.
struct Request {
    Request(Features given) : features(given) {}

    Features features;
    std::optional<std::chrono::microseconds> timeout{};  // the client's where absent
    std::optional<std::uint64_t> deadline_us{};          // the server's budget from receipt, at least 1
    Priority priority = Priority::interactive;
    std::string model{};            // "" is the server's default
    std::string traceparent{};      // W3C, at most 64 characters; "" is none
    std::string key{};              // whom it is for, at most 64 bytes: one variant scores all of a key; "" is none
    const UserPart* user = nullptr;  // must live until the request has been submitted
};

}  // namespace narsil
