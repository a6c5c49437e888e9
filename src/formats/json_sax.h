// A base for readers that take JSON event by event, so that a hostile text costs no memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "formats/printable.h"

namespace phasor {

// Every handler returns false to stop. The defaults accept everything.
class JsonSax {
 public:
  virtual ~JsonSax() = default;
  // Names are those nlohmann::json::sax_parse calls.
  virtual bool null() { return Scalar(); }
  virtual bool boolean(bool) { return Scalar(); }
  virtual bool number_integer(int64_t) { return Scalar(); }
  virtual bool number_unsigned(uint64_t) { return Scalar(); }
  virtual bool number_float(double, const std::string&) { return Scalar(); }
  virtual bool string(std::string&) { return Scalar(); }
  virtual bool binary(nlohmann::json::binary_t&) { return Scalar(); }
  virtual bool start_object(std::size_t) { return true; }
  virtual bool key(std::string&) { return true; }
  virtual bool end_object() { return true; }
  virtual bool start_array(std::size_t) { return true; }
  virtual bool end_array() { return true; }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception& error) {
    // The library's own text goes on to quote the input.
    std::string_view reason = error.what();
    reason = reason.substr(0, reason.find(';'));
    error_ = "expected valid JSON, found an error at byte " + std::to_string(position);
    if (auto colon = reason.find(": syntax error"); colon != reason.npos) {
      error_ += " (" + Printable(reason.substr(colon + 2)) + ")";
    }
    return false;
  }

  const std::string& error() const { return error_; }

 protected:
  // Any value that is not an object or array.
  virtual bool Scalar() { return true; }
  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }

 private:
  std::string error_;
};

}  // namespace phasor
