// A TensorRT engine that scores faces, for TensorRT 8.6 to 11: the part to use in another program.
// main.cpp shows how. Whatever fails raises std::runtime_error, whose text says what it was.

#pragma once

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace lpx {

[[noreturn]] inline void fail(const std::string& message) { throw std::runtime_error(message); }

inline void cuda(cudaError_t code, const std::string& what) {
    if (code != cudaSuccess) fail("CUDA cannot " + what + ": " + cudaGetErrorString(code));
}

inline void tensorrt(bool done, const std::string& what) {
    if (!done) fail("TensorRT cannot " + what + "; its messages, if any, are above");
}

class Logger : public nvinfer1::ILogger {
    void log(Severity severity, nvinfer1::AsciiChar const* text) noexcept override {
        if (severity <= Severity::kWARNING) std::fprintf(stderr, "TensorRT: %s\n", text);
    }
};

class Stream {
public:
    Stream() { cuda(cudaStreamCreate(&stream_), "create a stream"); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    operator cudaStream_t() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

class DeviceMemory {
public:
    DeviceMemory(std::size_t bytes, const std::string& purpose) {
        cuda(cudaMalloc(&data_, bytes), "allocate " + std::to_string(bytes) + " bytes " + purpose);
    }
    ~DeviceMemory() { cudaFree(data_); }
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;
    void* get() const { return data_; }

private:
    void* data_ = nullptr;
};

struct Settings {
    int32_t input_size = 0;        // side of a face, pixels
    int32_t dla_core = -1;         // DLA core that the plan was built for, -1 for none
    bool allow_host_code = false;  // load version-compatible plans, which contain code for the CPU
};

// A range of batch sizes that the engine takes.
struct Profile {
    int32_t index, minimum, maximum;
};

// An engine with the memory that it runs in. Not thread-safe: use one in each thread.
class Detector {
public:
    Detector(const std::string& plan, const Settings& settings) : size_(settings.input_size) {
        runtime_.reset(nvinfer1::createInferRuntime(logger_));
        tensorrt(runtime_ != nullptr, "start");
        runtime_->setEngineHostCodeAllowed(settings.allow_host_code);
        if (settings.dla_core >= 0) {
            runtime_->setDLACore(settings.dla_core);
            // TensorRT ignores the number of a core that does not exist.
            tensorrt(runtime_->getDLACore() == settings.dla_core, "use this DLA core");
        }
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        tensorrt(engine_ != nullptr, settings.allow_host_code ? "load the plan"
                     : "load the plan (a version-compatible one needs --allow-host-code)");
        context_.reset(engine_->createExecutionContext());
        tensorrt(context_ != nullptr, "create an execution context");
        check_tensors();
        read_profiles();
        const std::size_t most = static_cast<std::size_t>(batch());
        faces.resize(most * face_bytes());
        scores.resize(most);
        maps.resize(most * cells());
        device_faces_ = std::make_unique<DeviceMemory>(faces.size(), "for faces");
        device_scores_ = std::make_unique<DeviceMemory>(most * sizeof(float), "for scores");
        device_maps_ = std::make_unique<DeviceMemory>(maps.size() * sizeof(float), "for maps");
        // A batch below a profile's minimum is padded with what is in memory: let it be black.
        cuda(cudaMemsetAsync(device_faces_->get(), 0, faces.size(), stream_), "clear memory");
    }

    std::vector<uint8_t> faces;  // [batch(), input_size, input_size, 3], filled by the caller
    std::vector<float> scores;   // [batch()], results of infer()
    std::vector<float> maps;     // [batch(), rows(), columns()]

    std::size_t face_bytes() const { return std::size_t{3} * size_ * size_; }
    std::size_t rows() const { return grid_.d[1]; }
    std::size_t columns() const { return grid_.d[2]; }
    std::size_t cells() const { return rows() * columns(); }

    // The largest number of faces that one run takes.
    int32_t batch() const {
        int32_t most = 0;
        for (const Profile& profile : profiles_) most = std::max(most, profile.maximum);
        return most;
    }

    // Scores the first `count` faces, in as many runs as the profiles make necessary.
    void infer(int32_t count) {
        for (int32_t start = 0; start < count;) {
            const Profile profile = profile_for(count - start);
            const int32_t taken = std::min(count - start, profile.maximum);
            run(profile, start, taken, std::max(taken, profile.minimum));
            start += taken;
        }
        cuda(cudaStreamSynchronize(stream_), "finish inference");
    }

private:
    void check_tensors() {
        using nvinfer1::DataType;
        using nvinfer1::TensorIOMode;
        const auto is = [this](const char* name, TensorIOMode mode, DataType type, int32_t rank) {
            return engine_->getTensorIOMode(name) == mode
                && engine_->getTensorDataType(name) == type
                && engine_->getTensorShape(name).nbDims == rank;
        };
        if (engine_->getNbIOTensors() != 3
            || !is("faces", TensorIOMode::kINPUT, DataType::kUINT8, 4)
            || !is("score", TensorIOMode::kOUTPUT, DataType::kFLOAT, 1)
            || !is("patch_map", TensorIOMode::kOUTPUT, DataType::kFLOAT, 3))
            fail("this is not an engine of lpx: it must take faces (uint8, 4 dimensions), and "
                 "return score (float32, 1) and patch_map (float32, 3)");
        const nvinfer1::Dims shape = engine_->getTensorShape("faces");
        if (size_ < 1 || shape.d[1] != size_ || shape.d[2] != size_ || shape.d[3] != 3)
            fail("the engine takes faces of another size than the card's input_size");
        grid_ = engine_->getTensorShape("patch_map");
        if (grid_.d[1] < 1 || grid_.d[2] < 1) fail("the engine does not say how large its map is");
    }

    void read_profiles() {
        using nvinfer1::OptProfileSelector;
        const int32_t fixed = static_cast<int32_t>(engine_->getTensorShape("faces").d[0]);
        for (int32_t index = 0; index < engine_->getNbOptimizationProfiles(); ++index) {
            const auto least = engine_->getProfileShape("faces", index, OptProfileSelector::kMIN);
            const auto most = engine_->getProfileShape("faces", index, OptProfileSelector::kMAX);
            if (least.nbDims == 4 && least.d[0] > 0 && most.nbDims == 4 && most.d[0] >= least.d[0])
                profiles_.push_back({index, static_cast<int32_t>(least.d[0]),
                                     static_cast<int32_t>(most.d[0])});
            else if (fixed > 0 && profiles_.empty())  // the network itself has this batch size
                profiles_.push_back({index, fixed, fixed});
        }
        if (profiles_.empty()) fail("the engine has no profile that takes faces");
    }

    // The smallest profile that holds all faces, unless padding would more than double the batch:
    // then the largest that they fill.
    Profile profile_for(int32_t count) const {
        const Profile *holding = nullptr, *filled = nullptr;
        for (const Profile& one : profiles_) {
            if (count <= one.maximum && (!holding || one.maximum < holding->maximum))
                holding = &one;
            if (one.maximum <= count && (!filled || one.maximum > filled->maximum))
                filled = &one;
        }
        const bool pad = holding && (!filled || holding->minimum <= 2 * int64_t{count});
        return pad ? *holding : *filled;
    }

    void run(const Profile& profile, int32_t start, int32_t taken, int32_t batch) {
        const std::string what = " for a batch of " + std::to_string(batch);
        if (profile.index != active_) {
            tensorrt(context_->setOptimizationProfileAsync(profile.index, stream_),
                     "choose profile " + std::to_string(profile.index));
            active_ = profile.index;
        }
        nvinfer1::Dims shape = engine_->getTensorShape("faces");
        shape.d[0] = batch;
        tensorrt(context_->setInputShape("faces", shape), "set the input's shape" + what);
        tensorrt(context_->setTensorAddress("faces", device_faces_->get())
                     && context_->setTensorAddress("score", device_scores_->get())
                     && context_->setTensorAddress("patch_map", device_maps_->get()),
                 "set the tensors' addresses");
        cuda(cudaMemcpyAsync(device_faces_->get(), faces.data() + start * face_bytes(),
                             taken * face_bytes(), cudaMemcpyHostToDevice, stream_),
             "copy faces to the GPU");
        tensorrt(context_->enqueueV3(stream_), "run the engine" + what);
        cuda(cudaMemcpyAsync(scores.data() + start, device_scores_->get(), taken * sizeof(float),
                             cudaMemcpyDeviceToHost, stream_),
             "copy scores from the GPU");
        cuda(cudaMemcpyAsync(maps.data() + start * cells(), device_maps_->get(),
                             taken * cells() * sizeof(float), cudaMemcpyDeviceToHost, stream_),
             "copy maps from the GPU");
    }

    // Destroyed from last to first: a context before its engine, an engine before its runtime.
    int32_t size_, active_ = -1;
    nvinfer1::Dims grid_{};
    std::vector<Profile> profiles_;
    Stream stream_;
    std::unique_ptr<DeviceMemory> device_faces_, device_scores_, device_maps_;
    Logger logger_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

}  // namespace lpx
