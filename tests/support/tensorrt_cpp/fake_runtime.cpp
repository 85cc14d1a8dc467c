// Plays TensorRT and CUDA for the tests of the C++ runner, as strictly as the real ones.
//
// A plan is one line of text:
//   lpx-fake HOST_CODE DLA_CORES SIZE ROWS COLUMNS BATCH PROFILES MIN MAX MIN MAX ...
// BATCH is -1 for a dynamic one. The score of a face is the mean of its bytes, divided by 255; cell
// i of its map is (i + 1) / cells of that.
//
// Work on a stream runs when it is synchronised, as it may on a GPU: results that are read earlier
// are wrong. FAKE_FAIL=NAME or NAME:COUNT makes the first, or another, call of a function fail;
// FAKE_NAN=ROW makes a score NaN; FAKE_TYPE=float has the engine take float32; FAKE_LOG names a file
// that receives a line for every run.

#include <NvInfer.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

struct CUstream_st {
    std::vector<std::function<void()>> work;
};

namespace {

bool fails(const std::string& name) {
    static std::map<std::string, int> calls;
    const int call = ++calls[name];
    const char* given = std::getenv("FAKE_FAIL");
    if (!given) return false;
    const std::string wanted = given;
    const std::size_t colon = wanted.find(':');
    const int number = colon == std::string::npos ? 1 : std::atoi(wanted.c_str() + colon + 1);
    return wanted.substr(0, colon) == name && call == number;
}

cudaError_t result(const std::string& name) {
    return fails(name) ? cudaErrorInvalidValue : cudaSuccess;
}

int living[3];  // runtimes, engines and contexts: each must outlive the next

void die(const char* why) {
    std::fprintf(stderr, "fake runtime: %s\n", why);
    std::abort();
}

}  // namespace

extern "C" {
cudaError_t cudaMalloc(void** data, std::size_t size) {
    if (fails("cudaMalloc")) return cudaErrorMemoryAllocation;
    *data = std::malloc(size);
    return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
    std::free(data);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(
    void* to, const void* from, std::size_t count, cudaMemcpyKind kind, cudaStream_t stream) {
    if (fails(kind == cudaMemcpyHostToDevice ? "upload" : "download")) return cudaErrorInvalidValue;
    stream->work.push_back([=] { std::memcpy(to, from, count); });
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* data, int value, std::size_t count, cudaStream_t stream) {
    stream->work.push_back([=] { std::memset(data, value, count); });
    return result("cudaMemsetAsync");
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    if (fails("cudaStreamCreate")) return cudaErrorInvalidValue;
    *stream = new CUstream_st;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (fails("cudaStreamSynchronize")) return cudaErrorInvalidValue;
    for (const auto& task : stream->work) task();
    stream->work.clear();
    return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "out of memory" : "invalid argument";
}
}

namespace nvinfer1 {

struct State {
    ILogger* logger = nullptr;
    bool allowed = false;
    int32_t core = -1, host_code = 0, cores = 0, size = 0, rows = 0, columns = 0, fixed = -1;
    std::vector<std::pair<int32_t, int32_t>> profiles;
    int32_t profile = -1, batch = 0;
    std::map<std::string, void*> addresses;

    bool refuse(const std::string& why) const {
        logger->log(ILogger::Severity::kERROR, why.c_str());
        return false;
    }
};

namespace {

Dims make_dims(const std::vector<int32_t>& extents) {
    Dims dims{};
    dims.nbDims = static_cast<int32_t>(extents.size());
    for (std::size_t i = 0; i < extents.size(); ++i) dims.d[i] = extents[i];
    return dims;
}

IExecutionContext* make_context(const State& state) {
    if (fails("createExecutionContext")) return nullptr;
    auto* context = new IExecutionContext;
    context->state = new State(state);
    ++living[2];
    return context;
}

}  // namespace

IRuntime* createInferRuntime(ILogger& logger) noexcept {
    if (fails("createInferRuntime")) {
        logger.log(ILogger::Severity::kWARNING, "CUDA initialization failure with error: 35");
        return nullptr;
    }
    logger.log(ILogger::Severity::kINFO, "this note is not for users");
    auto* runtime = new IRuntime;
    runtime->state = new State;
    runtime->state->logger = &logger;
    ++living[0];
    return runtime;
}

IRuntime::~IRuntime() noexcept {
    if (living[1]) die("a runtime was destroyed before its engine");
    --living[0];
    delete state;
}
void IRuntime::setDLACore(int32_t core) noexcept {
    if (core < 2) state->core = core;
}
int32_t IRuntime::getDLACore() const noexcept { return state->core; }
void IRuntime::setEngineHostCodeAllowed(bool allowed) noexcept { state->allowed = allowed; }

ICudaEngine* IRuntime::deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
    if (fails("deserializeCudaEngine")) return nullptr;
    const std::string text(static_cast<char const*>(blob), size);
    State made = *state;
    int32_t count = 0;
    int read = 0;
    if (std::sscanf(text.c_str(), "lpx-fake %d %d %d %d %d %d %d%n", &made.host_code, &made.cores,
                    &made.size, &made.rows, &made.columns, &made.fixed, &count, &read) != 7) {
        state->refuse("Serialization assertion magicTag failed");
        return nullptr;
    }
    if (made.host_code && !made.allowed) {
        state->refuse("Cannot deserialize engine: getEngineHostCodeAllowed() is false.");
        return nullptr;
    }
    const char* at = text.c_str() + read;
    for (int32_t i = 0; i < count; ++i) {
        int least = 0, most = 0, used = 0;
        if (std::sscanf(at, "%d %d%n", &least, &most, &used) != 2) return nullptr;
        made.profiles.emplace_back(least, most);
        at += used;
    }
    auto* engine = new ICudaEngine;
    engine->state = new State(made);
    ++living[1];
    return engine;
}

ICudaEngine::~ICudaEngine() noexcept {
    if (living[2]) die("an engine was destroyed before its context");
    --living[1];
    delete state;
}
int32_t ICudaEngine::getNbIOTensors() const noexcept { return 3; }
TensorIOMode ICudaEngine::getTensorIOMode(char const* name) const noexcept {
    if (!std::strcmp(name, "faces")) return TensorIOMode::kINPUT;
    if (!std::strcmp(name, "score") || !std::strcmp(name, "patch_map")) return TensorIOMode::kOUTPUT;
    return TensorIOMode::kNONE;
}
DataType ICudaEngine::getTensorDataType(char const* name) const noexcept {
    if (!std::strcmp(name, "faces") && !std::getenv("FAKE_TYPE")) return DataType::kUINT8;
    return DataType::kFLOAT;
}
Dims ICudaEngine::getTensorShape(char const* name) const noexcept {
    if (!std::strcmp(name, "faces")) return make_dims({state->fixed, state->size, state->size, 3});
    if (!std::strcmp(name, "score")) return make_dims({state->fixed});
    if (!std::strcmp(name, "patch_map"))
        return make_dims({state->fixed, state->rows, state->columns});
    Dims none{};
    none.nbDims = -1;
    return none;
}
int32_t ICudaEngine::getNbOptimizationProfiles() const noexcept {
    // A network without dynamic dimensions has one profile, which says nothing.
    return state->profiles.empty() ? 1 : static_cast<int32_t>(state->profiles.size());
}
Dims ICudaEngine::getProfileShape(
    char const* name, int32_t index, OptProfileSelector select) const noexcept {
    if (std::strcmp(name, "faces") || index < 0
        || index >= static_cast<int32_t>(state->profiles.size())) {
        Dims none{};
        none.nbDims = -1;
        return none;
    }
    const auto& range = state->profiles[index];
    const int32_t batch = select == OptProfileSelector::kMIN ? range.first : range.second;
    return make_dims({batch, state->size, state->size, 3});
}
#if FAKE_TENSORRT >= 10
IExecutionContext* ICudaEngine::createExecutionContext(
    ExecutionContextAllocationStrategy) noexcept {
    return make_context(*state);
}
#else
IExecutionContext* ICudaEngine::createExecutionContext() noexcept { return make_context(*state); }
#endif

IExecutionContext::~IExecutionContext() noexcept {
    --living[2];
    delete state;
}
bool IExecutionContext::setOptimizationProfileAsync(int32_t index, cudaStream_t stream) noexcept {
    if (fails("setOptimizationProfileAsync") || !stream) return false;
    const auto count = state->profiles.empty() ? 1 : static_cast<int32_t>(state->profiles.size());
    if (index < 0 || index >= count) return state->refuse("no such profile");
    state->profile = index;
    state->batch = 0;  // as in TensorRT, shapes are set again after this
    return true;
}
bool IExecutionContext::setInputShape(char const* name, Dims const& dims) noexcept {
    if (fails("setInputShape") || std::strcmp(name, "faces")) return false;
    if (dims.nbDims != 4 || dims.d[1] != state->size || dims.d[2] != state->size || dims.d[3] != 3)
        return state->refuse("wrong shape");
    const auto batch = static_cast<int32_t>(dims.d[0]);
    if (state->profile < 0) return state->refuse("no profile was chosen");
    if (state->profiles.empty()) {
        if (batch != state->fixed) return state->refuse("the batch is not the network's");
    } else {
        const auto& range = state->profiles[state->profile];
        if (batch < range.first || batch > range.second)
            return state->refuse("the batch is outside the profile");
    }
    state->batch = batch;
    return true;
}
bool IExecutionContext::setTensorAddress(char const* name, void* data) noexcept {
    if (fails("setTensorAddress")) return false;
    state->addresses[name] = data;
    return true;
}
bool IExecutionContext::enqueueV3(cudaStream_t stream) noexcept {
    if (fails("enqueueV3")) return state->refuse("kernel failed");
    if (state->batch < 1 || state->addresses.size() != 3 || !stream)
        return state->refuse("shapes or addresses are missing");
    if (const char* log = std::getenv("FAKE_LOG")) {
        std::FILE* file = std::fopen(log, "a");
        std::fprintf(file, "%d %d\n", state->profile, state->batch);
        std::fclose(file);
    }
    const State now = *state;
    stream->work.push_back([now] {
        const auto* faces = static_cast<const unsigned char*>(now.addresses.at("faces"));
        auto* scores = static_cast<float*>(now.addresses.at("score"));
        auto* maps = static_cast<float*>(now.addresses.at("patch_map"));
        const std::size_t bytes = std::size_t{3} * now.size * now.size;
        const int cells = now.rows * now.columns;
        const char* broken = std::getenv("FAKE_NAN");
        for (int row = 0; row < now.batch; ++row) {
            double sum = 0;
            for (std::size_t i = 0; i < bytes; ++i) sum += faces[row * bytes + i];
            scores[row] = static_cast<float>(sum / bytes / 255);
            for (int cell = 0; cell < cells; ++cell)
                maps[row * cells + cell] = scores[row] * static_cast<float>(cell + 1) / cells;
            if (broken && std::atoi(broken) == row) scores[row] = std::nanf("");
        }
    });
    return true;
}

}  // namespace nvinfer1
