// libtorch's interface for accelerators, as plain functions. No CUDA header is needed, so this also builds with a
// libtorch without CUDA; there, and wherever libtorch throws, the functions answer that they could not.

#include <ATen/DeviceAccelerator.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>

#ifdef __linux__
#include <dlfcn.h>
#endif

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

// Counts what tensors of the calling thread take, until the same thread ends it; the last one begun ends first.
MemoryCount* coz_memory_count_begin() {
  return new MemoryCount();
}

// The most that they took at once, in bytes.
int64_t coz_memory_count_end(MemoryCount* count) {
  const auto peak = count->counter->peak();
  delete count;
  return peak;
}

// Hands the calling thread's warnings to `take` instead of the terminal.
void coz_take_warnings(void (*take)(const char*, size_t)) {
  static Warnings warnings(take);
  c10::WarningUtils::set_warning_handler(&warnings);
}

// Whether an NVIDIA driver is installed; elsewhere than on Linux libtorch itself finds out.
bool coz_accelerator_has_driver() {
#ifdef __linux__
  return dlopen("libcuda.so.1", RTLD_LAZY) != nullptr;
#else
  return true;
#endif
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

// Bytes that are free, and the most that tensors have used.
bool coz_accelerator_memory(int32_t device, uint64_t memory[2]) {
  return succeeds([&] {
    const auto free = at::accelerator::getMemoryInfo(device).first;
    const auto stats = at::accelerator::getDeviceStats(device);
    const auto used = stats.allocated_bytes[ALL];
    memory[0] = free + (stats.reserved_bytes[ALL].current - used.current);
    memory[1] = used.peak;
  });
}

void coz_accelerator_trim() {
  succeeds([] { at::accelerator::emptyCache(); });
}

// Gives the calling thread a stream of its own on the device.
bool coz_accelerator_compute_beside(int32_t device) {
  return succeeds([&] {
    const auto type = at::accelerator::getAccelerator(true).value();
    const c10::impl::VirtualGuardImpl guard(type);
    const c10::Device place(type, static_cast<c10::DeviceIndex>(device));
    at::accelerator::setCurrentStream(guard.getStreamFromGlobalPool(place, false));
  });
}

}
