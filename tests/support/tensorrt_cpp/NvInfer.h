// The declarations of TensorRT's C++ API that the C++ runner uses, for tests without TensorRT.
//
// Written for lpx. Signatures were compared with NVIDIA's headers of 8.6, 10 and 11, names with the
// published Python bindings of 8.6 to 11.4. FAKE_TENSORRT chooses the release, where they differ:
//   8.6  extents are int32_t; createExecutionContext takes no argument
//   10   extents are int64_t (Dims64); createExecutionContext takes an allocation strategy
//   11   ILogger is a versioned interface; createExecutionContext also takes an IRuntimeConfig
// Alike in all three: every method is noexcept, indices and ranks are int32_t, objects are released
// by delete. enqueueV2, getNbBindings and destroy(), which 10 removed, are left out: a runner that
// called them would not compile.

#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#ifndef FAKE_TENSORRT
#define FAKE_TENSORRT 10
#endif
#define NV_TENSORRT_MAJOR FAKE_TENSORRT

namespace nvinfer1 {

using AsciiChar = char;

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5 };
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class OptProfileSelector : int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };

class Dims {
public:
    static constexpr int32_t MAX_DIMS{8};
    int32_t nbDims;
#if FAKE_TENSORRT >= 10
    int64_t d[MAX_DIMS];
#else
    int32_t d[MAX_DIMS];
#endif
};

#if FAKE_TENSORRT >= 11
struct InterfaceInfo {
    AsciiChar const* kind;
    int32_t major;
    int32_t minor;
};
class IVersionedInterface {
public:
    virtual InterfaceInfo getInterfaceInfo() const noexcept = 0;
    virtual ~IVersionedInterface() noexcept = default;
};
#endif

class ILogger
#if FAKE_TENSORRT >= 11
    : public IVersionedInterface
#endif
{
public:
    enum class Severity : int32_t {
        kINTERNAL_ERROR = 0,
        kERROR = 1,
        kWARNING = 2,
        kINFO = 3,
        kVERBOSE = 4
    };
#if FAKE_TENSORRT >= 11
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILogger", 1, 0}; }
#endif
    virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;
    ILogger() = default;
    virtual ~ILogger() = default;
};

class INoCopy {
protected:
    INoCopy() = default;
    virtual ~INoCopy() = default;
    INoCopy(INoCopy const&) = delete;
    INoCopy& operator=(INoCopy const&) = delete;
};

class IExecutionContext : public INoCopy {
public:
    ~IExecutionContext() noexcept override;
    bool setOptimizationProfileAsync(int32_t profileIndex, cudaStream_t stream) noexcept;
    bool setInputShape(char const* tensorName, Dims const& dims) noexcept;
    bool setTensorAddress(char const* tensorName, void* data) noexcept;
    bool enqueueV3(cudaStream_t stream) noexcept;

    struct State* state = nullptr;
};

#if FAKE_TENSORRT >= 10
enum class ExecutionContextAllocationStrategy : int32_t { kSTATIC = 0 };
#endif
#if FAKE_TENSORRT >= 11
class IRuntimeConfig;
#endif

class ICudaEngine : public INoCopy {
public:
    ~ICudaEngine() noexcept override;
    int32_t getNbIOTensors() const noexcept;
    TensorIOMode getTensorIOMode(char const* tensorName) const noexcept;
    DataType getTensorDataType(char const* tensorName) const noexcept;
    Dims getTensorShape(char const* tensorName) const noexcept;
    int32_t getNbOptimizationProfiles() const noexcept;
    Dims getProfileShape(
        char const* tensorName, int32_t profileIndex, OptProfileSelector select) const noexcept;
#if FAKE_TENSORRT >= 10
    IExecutionContext* createExecutionContext(
        ExecutionContextAllocationStrategy strategy
        = ExecutionContextAllocationStrategy::kSTATIC) noexcept;
#else
    IExecutionContext* createExecutionContext() noexcept;
#endif
#if FAKE_TENSORRT >= 11
    IExecutionContext* createExecutionContext(IRuntimeConfig* runtimeConfig) noexcept;
#endif

    struct State* state = nullptr;
};

class IRuntime : public INoCopy {
public:
    ~IRuntime() noexcept override;
    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept;
    void setDLACore(int32_t dlaCore) noexcept;
    int32_t getDLACore() const noexcept;
    void setEngineHostCodeAllowed(bool allowed) noexcept;

    struct State* state = nullptr;
};

IRuntime* createInferRuntime(ILogger& logger) noexcept;

}  // namespace nvinfer1
