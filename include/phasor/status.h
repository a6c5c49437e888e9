// Errors that input can cause, as values.
//
// Every function that reads a file, a flag or a request returns Status or Result<T>. Programmer
// errors use PHASOR_CHECK (src/base/check.h) and abort. No exception crosses a module border.
//
// Message form: "<where>: <what was expected>, found <what was found>", lower case, no final stop,
// for example "gguf: tensor blk.3.attn_k.weight: offset 81920 past end of file (65536)".
#pragma once

#include <optional>
#include <string>
#include <utility>

namespace phasor {

// Which code to pick when two look alike: a bad flag or argument is kInvalidArgument; a well-formed
// request for something phasor does not have is kUnsupported; damaged bytes are kDataCorrupt; too
// little memory or disk is kResourceExhausted.
enum class StatusCode {
  kOk = 0,
  kInvalidArgument,
  kNotFound,
  kUnsupported,
  kOutOfRange,
  kDataCorrupt,
  kResourceExhausted,
  kCancelled,
  kUnavailable,
  kInternal,
};

// "ok", "invalid_argument", ...; never null.
const char* StatusCodeName(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // ok
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  static Status Ok() { return Status(); }
  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  // The same error with "<prefix>: " in front of its message.
  Status WithPrefix(const std::string& prefix) const {
    return ok() ? *this : Status(code_, prefix + ": " + message_);
  }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status InvalidArgument(std::string m) {
  return {StatusCode::kInvalidArgument, std::move(m)};
}
inline Status NotFound(std::string m) { return {StatusCode::kNotFound, std::move(m)}; }
inline Status Unsupported(std::string m) { return {StatusCode::kUnsupported, std::move(m)}; }
inline Status OutOfRange(std::string m) { return {StatusCode::kOutOfRange, std::move(m)}; }
inline Status DataCorrupt(std::string m) { return {StatusCode::kDataCorrupt, std::move(m)}; }
inline Status ResourceExhausted(std::string m) {
  return {StatusCode::kResourceExhausted, std::move(m)};
}
inline Status Cancelled(std::string m) { return {StatusCode::kCancelled, std::move(m)}; }
inline Status Unavailable(std::string m) { return {StatusCode::kUnavailable, std::move(m)}; }
inline Status Internal(std::string m) { return {StatusCode::kInternal, std::move(m)}; }

// A value or an error. `value()` on an error is a programmer error and aborts.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}          // NOLINT: implicit by design
  Result(Status status) : status_(std::move(status)) {}  // NOLINT: implicit by design
  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() & { return value_.value(); }
  const T& value() const& { return value_.value(); }
  T&& value() && { return std::move(value_.value()); }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace phasor

// Returns the error of an expression of type Status from the calling function.
#define PHASOR_RETURN_IF_ERROR(expr)                 \
  do {                                               \
    ::phasor::Status phasor_status_ = (expr);        \
    if (!phasor_status_.ok()) return phasor_status_; \
  } while (0)

#define PHASOR_CONCAT_INNER_(a, b) a##b
#define PHASOR_CONCAT_(a, b) PHASOR_CONCAT_INNER_(a, b)
// PHASOR_ASSIGN_OR_RETURN(auto x, F()) : x from F()'s Result, or returns its error.
#define PHASOR_ASSIGN_OR_RETURN(lhs, expr) \
  PHASOR_ASSIGN_OR_RETURN_IMPL_(PHASOR_CONCAT_(phasor_result_, __LINE__), lhs, expr)
#define PHASOR_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                  \
  if (!tmp.ok()) return tmp.status();                 \
  lhs = std::move(tmp).value()
