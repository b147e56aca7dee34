// torchscript_grpc MODULE: answers any gRPC call of MODULE's inputs, as benchmarks/peers/wire.py lays them out, with its scores.
//
// One module, each call a forward of its own, nothing batched: the shape of TorchRec's C++ inference server. Messages
// are passed as bytes, which is cheaper than any message type. Calls run on a thread per core: on grpc's own, those that
// arrive together would run one after another.

#include <ATen/Parallel.h>
#include <c10/core/thread_pool.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <torch/script.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>

namespace {

constexpr std::int64_t warm_rows = 100;
// The executor profiles in the first calls and compiles in the next.
constexpr int warm_calls = 20;

class Scorer {
  public:
    explicit Scorer(const std::string& path) {
        torch::jit::ExtraFilesMap beside{{"widths", ""}};
        module_ = torch::jit::load(path, torch::kCPU, beside);
        std::istringstream(beside["widths"]) >> dense_width_ >> features_;
        const c10::InferenceMode inference;
        for (int call = 0; call < warm_calls; ++call)
            forward(torch::zeros({warm_rows, dense_width_}), torch::zeros({warm_rows, features_}, torch::kInt32));
    }

    // False where the body is shorter or longer than it says.
    bool score(const grpc::ByteBuffer& body, grpc::ByteBuffer& reply) {
        grpc::Slice bytes;
        std::uint32_t rows = 0;
        if (!body.DumpToSingleSlice(&bytes).ok() || bytes.size() < sizeof rows) return false;
        std::memcpy(&rows, bytes.begin(), sizeof rows);
        if (bytes.size() != sizeof rows + rows * std::size_t(dense_width_ + features_) * 4) return false;
        const c10::InferenceMode inference;
        const auto dense = torch::empty({rows, dense_width_});
        const auto ids = torch::empty({rows, features_}, torch::kInt32);
        std::memcpy(dense.data_ptr(), bytes.begin() + sizeof rows, dense.nbytes());
        std::memcpy(ids.data_ptr(), bytes.begin() + sizeof rows + dense.nbytes(), ids.nbytes());
        const auto scores = forward(dense, ids).contiguous();
        const grpc::Slice copied(scores.data_ptr(), scores.nbytes());
        reply = grpc::ByteBuffer(&copied, 1);
        return true;
    }

  private:
    torch::Tensor forward(const torch::Tensor& dense, const torch::Tensor& ids) {
        return module_.forward({dense, ids}).toTensor();
    }

    torch::jit::Module module_;
    std::int64_t dense_width_ = 0;
    std::int64_t features_ = 0;
};

class Call final : public grpc::ServerGenericBidiReactor {
  public:
    Call(Scorer& scorer, c10::ThreadPool& threads) : scorer_(scorer), threads_(threads) { StartRead(&request_); }

    void OnReadDone(bool ok) override {
        if (!ok) return Finish({grpc::StatusCode::INVALID_ARGUMENT, "no message"});
        threads_.run([this] { answer(); });
    }

    void OnDone() override { delete this; }

  private:
    void answer() {
        try {
            if (!scorer_.score(request_, reply_)) return Finish({grpc::StatusCode::INVALID_ARGUMENT, "not so many bytes"});
        } catch (const std::exception& error) {
            return Finish({grpc::StatusCode::INTERNAL, error.what()});
        }
        StartWriteAndFinish(&reply_, {}, grpc::Status::OK);
    }

    Scorer& scorer_;
    c10::ThreadPool& threads_;
    grpc::ByteBuffer request_;
    grpc::ByteBuffer reply_;
};

class Service final : public grpc::CallbackGenericService {
  public:
    Service(Scorer& scorer, c10::ThreadPool& threads) : scorer_(scorer), threads_(threads) {}

    grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
        return new Call(scorer_, threads_);
    }

  private:
    Scorer& scorer_;
    c10::ThreadPool& threads_;
};

}  // namespace

int main(int count, char** arguments) try {
    if (count != 2) throw std::invalid_argument("usage: torchscript_grpc MODULE");
    at::set_num_threads(1);
    Scorer scorer(arguments[1]);
    c10::ThreadPool threads(static_cast<int>(std::thread::hardware_concurrency()));
    Service service(scorer, threads);
    int port = 0;
    grpc::ServerBuilder builder;
    builder.SetMaxReceiveMessageSize(-1);
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterCallbackGenericService(&service);
    const auto server = builder.BuildAndStart();
    if (!server) throw std::runtime_error("cannot listen");
    std::cout << "ready 127.0.0.1:" << port << std::endl;
    server->Wait();
} catch (const std::exception& error) {
    std::cerr << "torchscript_grpc: " << error.what() << std::endl;
    return 1;
}
