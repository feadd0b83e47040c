// c10d's TCPStore, through which processes find each other and exchange bytes, as plain functions.

#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <c10/util/Flags.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "reported.h"

C10_DECLARE_int(caffe2_log_level);

namespace {
// How long a wait lasts before it is asked whether somebody has failed.
constexpr std::chrono::milliseconds POLL{500};
// How long others may take to come where the program is asked to stop: launchers kill after 30 s.
constexpr std::chrono::seconds GRACE{12};

struct Store {
  c10::intrusive_ptr<c10d::TCPStore> store;
};
} // namespace

extern "C" {
// Connects, and where `is_server` is set also serves. Waits at most so long for it, and later for each answer.
void* coz_store_open(
    const char* host,
    uint16_t port,
    bool is_server,
    int64_t timeout_ms,
    char* error,
    size_t length) {
  return reported(error, length, [&]() -> void* {
    // Only what is fatal: an exception says what fails, and c10d's own words on stderr are long.
    FLAGS_caffe2_log_level = 3;
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = is_server;
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    return new Store{c10::make_intrusive<c10d::TCPStore>(host, options)};
  });
}

void coz_store_close(void* store) {
  try {
    delete static_cast<Store*>(store);
  } catch (...) {
  }
}

bool coz_store_set(void* store, const char* key, const uint8_t* bytes, size_t count, char* error, size_t length) {
  return reported(error, length, [&] {
    static_cast<Store*>(store)->store->set(key, std::vector<uint8_t>(bytes, bytes + count));
    return true;
  });
}

// Waits for a value of `count` bytes; where somebody sets `failed` meanwhile, that is the error. Where `stops` says so it waits only
// a little longer.
bool coz_store_get(
    void* opened,
    const char* key,
    const char* failed,
    bool (*stops)(),
    uint8_t* bytes,
    size_t count,
    char* error,
    size_t length) {
  return reported(error, length, [&] {
    auto& store = *static_cast<Store*>(opened)->store;
    const auto start = std::chrono::steady_clock::now();
    auto until = start + store.getTimeout();
    for (bool is_stopped = false;;) {
      try {
        store.wait({key}, POLL);
        break;
      } catch (const c10::Error&) {
        // It has not come yet; or the connection is lost, which the next question tells.
        if (store.check({failed})) {
          const auto reason = store.get(failed);
          TORCH_CHECK(false, std::string(reason.begin(), reason.end()));
        }
        const auto now = std::chrono::steady_clock::now();
        if (!is_stopped && stops()) {
          is_stopped = true;
          until = std::min(until, now + GRACE);
        }
        const std::chrono::duration<double> waited = now - start;
        TORCH_CHECK(now < until, "nothing came for ", waited.count(), " s");
      }
    }
    const auto value = store.get(key);
    TORCH_CHECK(value.size() == count, "a value of ", value.size(), " bytes came, of ", count, " that were expected");
    std::memcpy(bytes, value.data(), count);
    return true;
  });
}

bool coz_store_delete(void* store, const char* key, char* error, size_t length) {
  return reported(error, length, [&] {
    static_cast<Store*>(store)->store->deleteKey(key);
    return true;
  });
}
}
