// libtorch's interface for accelerators, and random numbers from a generator of one's own, as plain functions. No CUDA header
// is needed, so this also builds with a libtorch without CUDA; there, and wherever libtorch throws, the functions answer that
// they could not, or why.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/ops/multinomial.h>
#include <ATen/ops/poisson.h>
#include <ATen/ops/randn.h>
#include <ATen/record_function.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <c10/util/Logging.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string_view>
#include <vector>

#ifdef __linux__
#include <dlfcn.h>
#endif

#include "reported.h"

namespace {
// The statistics' sum over small and large allocations.
constexpr size_t ALL = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);

template <typename F>
bool succeeds(F&& call) {
  try {
    call();
    return true;
  } catch (...) {
    return false;
  }
}

// Before anything is asked of a device: its allocator knows nothing until CUDA has begun.
void begin() {
  at::globalContext().lazyInitDevice(at::kCUDA);
}

class Warnings : public c10::WarningHandler {
 public:
  explicit Warnings(void (*take)(const char*, size_t)) : take_(take) {}
  void process(const c10::Warning& warning) override { take_(warning.msg().data(), warning.msg().size()); }

 private:
  void (*take_)(const char*, size_t);
};

// What tensors take, as the profiler is told.
class MemoryCounter : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override {
    now_ += size;
    peak_ = std::max(peak_, now_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak() const { return peak_; }

 private:
  int64_t now_ = 0;
  int64_t peak_ = 0;
};

struct MemoryCount {
  std::shared_ptr<MemoryCounter> counter = std::make_shared<MemoryCounter>();
  c10::DebugInfoGuard guard{c10::DebugInfoKind::PROFILER_STATE, counter};
};
} // namespace

extern "C" {
// What this thread computes from now on it computes alone.
void coz_compute_alone() {
  // Else libtorch sets its own number of threads with the first thing that it computes here.
  at::get_num_threads();
#ifdef __linux__
  // Of the OpenMP that libtorch has loaded: its own setter would count for other threads too.
  if (const auto set = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"))) {
    set(1);
  }
#endif
}


// Counts what tensors of the calling thread take, until the same thread ends it; the last one begun ends first.
MemoryCount* coz_memory_count_begin() {
  MemoryCount* count = nullptr;
  succeeds([&] { count = new MemoryCount(); });
  return count;
}

// The most that they took at once, in bytes.
int64_t coz_memory_count_end(MemoryCount* count) {
  if (count == nullptr) {
    return 0;
  }
  const auto peak = count->counter->peak();
  delete count;
  return peak;
}

// Hands the calling thread's warnings to `take` instead of the terminal; what is on the terminal all the same follows
// TORCH_CPP_LOG_LEVEL.
void coz_take_warnings(void (*take)(const char*, size_t)) {
  succeeds([&] {
    c10::initLogging();
    static Warnings warnings(take);
    c10::WarningUtils::set_warning_handler(&warnings);
  });
}

// Loads the CUDA half of libtorch, which registers itself with the other. `error` holds what went wrong, in at most
// `length` bytes. Elsewhere than on Linux it is linked.
bool coz_accelerator_load_cuda(char* error, size_t length) {
#ifdef __linux__
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    std::snprintf(error, length, "%s", dlerror());
    return false;
  }
#endif
  return true;
}

// Bytes that are free, that tensors use, the most that they have used, those that the allocator has taken, and the most that
// it had.
bool coz_accelerator_memory(int32_t device, uint64_t memory[5]) {
  return succeeds([&] {
    begin();
    const auto free = at::accelerator::getMemoryInfo(device).first;
    const auto stats = at::accelerator::getDeviceStats(device);
    const auto used = stats.allocated_bytes[ALL];
    const auto reserved = stats.reserved_bytes[ALL];
    memory[0] = free + (reserved.current - used.current);
    memory[1] = used.current;
    memory[2] = used.peak;
    memory[3] = reserved.current;
    memory[4] = reserved.peak;
  });
}

void coz_accelerator_reset_peak(int32_t device) {
  succeeds([&] { at::accelerator::resetPeakStats(static_cast<c10::DeviceIndex>(device)); });
}

void coz_accelerator_trim() {
  succeeds([] { at::accelerator::emptyCache(); });
}

// Gives the calling thread a stream beside the usual one, the same at every call: the allocator reuses memory only within
// a stream.
bool coz_accelerator_compute_beside(int32_t device) {
  static std::mutex mutex;
  static std::map<int32_t, c10::Stream> streams;
  return succeeds([&] {
    begin();
    const std::lock_guard<std::mutex> lock(mutex);
    auto known = streams.find(device);
    if (known == streams.end()) {
      const auto type = at::accelerator::getAccelerator(true).value();
      const c10::impl::VirtualGuardImpl guard(type);
      const c10::Device place(type, static_cast<c10::DeviceIndex>(device));
      known = streams.emplace(device, guard.getStreamFromGlobalPool(place, false)).first;
    }
    at::accelerator::setCurrentStream(known->second);
  });
}

// The device is this thread's from now on; its current stream, as CUDA's own libraries take it.
void* coz_accelerator_stream(int32_t device, char* error, size_t length) {
  return reported(error, length, [&] {
    begin();
    at::accelerator::setDeviceIndex(static_cast<c10::DeviceIndex>(device));
    return at::accelerator::getCurrentStream(static_cast<c10::DeviceIndex>(device)).native_handle();
  });
}

// cuDNN's attention makes a plan for every shape, which takes longer than it gains where shapes differ.
void coz_accelerator_choose_kernels() {
  succeeds([] {
    at::globalContext().setSDPUseCuDNN(false);
    at::globalContext().setAllowTF32CuDNN(false);
  });
}

// Convolutions may round float32 to TF32; products never do.
void coz_accelerator_allow_tf32(bool allowed) {
  succeeds([&] { at::globalContext().setAllowTF32CuDNN(allowed); });
}

// Waits until the device has done all that was given to the calling thread's stream.
bool coz_accelerator_wait(int32_t device, char* error, size_t length) {
  return reported(error, length, [&] {
    at::accelerator::getCurrentStream(static_cast<c10::DeviceIndex>(device)).synchronize();
    return true;
  });
}

// Normally distributed numbers of 32 bits on the CPU, as after `torch.manual_seed(seed)`.
at::Tensor* coz_rng_randn(uint64_t seed, const int64_t* sizes, size_t count, char* error, size_t length) {
  return reported(error, length, [&] {
    const auto generator = at::detail::createCPUGenerator(seed);
    return new at::Tensor(at::randn(at::IntArrayRef(sizes, count), generator, at::TensorOptions(at::kFloat)));
  });
}

// Counts with these means, as after `torch.manual_seed(seed)`.
at::Tensor* coz_rng_poisson(uint64_t seed, const at::Tensor* rates, char* error, size_t length) {
  return reported(error, length, [&] {
    const auto generator = at::detail::createCPUGenerator(seed);
    return new at::Tensor(at::poisson(*rates, generator));
  });
}

// One index, drawn from shares on the CPU, as after `torch.manual_seed(seed)`.
at::Tensor* coz_rng_multinomial(uint64_t seed, const at::Tensor* shares, char* error, size_t length) {
  return reported(error, length, [&] {
    const auto generator = at::detail::createCPUGenerator(seed);
    return new at::Tensor(at::multinomial(*shares, 1, false, generator));
  });
}

// Hands every operator that the calling thread runs to `take`, with three numbers for each tensor it is given: type of
// device, dtype, dimensions. Until the same thread ends it.
uint64_t coz_operators_begin(void (*take)(const char*, const int32_t*, size_t)) {
  static thread_local void (*taker)(const char*, const int32_t*, size_t);
  taker = take;
  uint64_t handle = 0;
  auto callback = at::RecordFunctionCallback([](const at::RecordFunction& fn) -> std::unique_ptr<at::ObserverContext> {
    std::vector<int32_t> tensors;
    const auto add = [&](const at::Tensor& tensor) {
      if (tensor.defined()) {
        tensors.push_back(static_cast<int32_t>(tensor.device().type()));
        tensors.push_back(static_cast<int32_t>(tensor.scalar_type()));
        tensors.push_back(static_cast<int32_t>(tensor.dim()));
      }
    };
    for (const auto& input : fn.inputs()) {
      if (input.isTensor()) {
        add(input.toTensor());
      } else if (input.isTensorList()) {
        for (const at::Tensor& tensor : input.toTensorList()) {
          add(tensor);
        }
      }
    }
    taker(fn.name(), tensors.data(), tensors.size() / 3);
    return nullptr;
  });
  succeeds([&] {
    handle = at::addThreadLocalCallback(callback.needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  });
  return handle;
}

void coz_operators_end(uint64_t handle) {
  succeeds([&] { at::removeCallback(handle); });
}

// Has libtorch's profiler write down what the calling thread computes, and what a CUDA device does, until the end.
bool coz_trace_begin(bool on_cuda, char* error, size_t length) {
  return reported(error, length, [&] {
    namespace impl = torch::profiler::impl;
    const impl::ProfilerConfig config(impl::ProfilerState::KINETO, /*report_input_shapes=*/true);
    std::set<impl::ActivityType> activities{impl::ActivityType::CPU};
    if (on_cuda) {
      activities.insert(impl::ActivityType::CUDA);
    }
    torch::autograd::profiler::prepareProfiler(config, activities);
    torch::autograd::profiler::enableProfiler(config, activities);
    return true;
  });
}

// Writes it into a file, in Chrome's trace format.
bool coz_trace_end(const char* file, char* error, size_t length) {
  return reported(error, length, [&] {
    torch::autograd::profiler::disableProfiler()->save(file);
    return true;
  });
}

// A span of time in what is written down, until it is ended.
at::RecordFunction* coz_trace_span_begin(const char* name, size_t length) {
  at::RecordFunction* span = nullptr;
  succeeds([&] {
    span = new at::RecordFunction(at::RecordScope::USER_SCOPE);
    if (span->isActive()) {
      span->before(std::string_view(name, length));
    }
  });
  return span;
}

void coz_trace_span_end(at::RecordFunction* span) {
  delete span;
}

}
