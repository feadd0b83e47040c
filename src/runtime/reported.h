// How a function that Rust calls tells why it failed.

#pragma once

#include <c10/util/Exception.h>

#include <cstdio>
#include <exception>

// What `call` returns; where it throws nothing, with the reason in at most `length` bytes of `error`.
template <typename F>
auto reported(char* error, size_t length, F&& call) -> decltype(call()) {
  try {
    return call();
  } catch (const c10::Error& e) {
    std::snprintf(error, length, "%s", e.what_without_backtrace());
  } catch (const std::exception& e) {
    std::snprintf(error, length, "%s", e.what());
  } catch (...) {
    std::snprintf(error, length, "an error of an unknown kind");
  }
  return {};
}
