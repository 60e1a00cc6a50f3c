// What a client did wrong, or why we cannot serve it, in OpenAI's terms.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace gsd::server {

// `what()` is the message for the client.
class ApiError : public std::runtime_error {
 public:
  // `param`: the field at fault, or empty. `code`: a word for programs, or empty.
  ApiError(int status, const std::string& message, std::string param = {}, std::string code = {})
      : std::runtime_error(message), status_(status), param_(std::move(param)), code_(std::move(code)) {}
  int status() const { return status_; }
  const std::string& param() const { return param_; }
  const std::string& code() const { return code_; }

 private:
  int status_;
  std::string param_;
  std::string code_;
};

}  // namespace gsd::server
