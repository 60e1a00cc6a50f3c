// Typed access to a request's JSON.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "api_error.h"
#include "conversation.h"
#include "gsd/params.h"

namespace gsd::server {

constexpr int kMaxJsonDepth = 64;

// A request's body. Throws ApiError(400) for what is no JSON, nested deeper than kMaxJsonDepth, or of too many keys;
// parse_object() also for what is no object.
Json parse_json(std::string_view body);
Json parse_object(std::string_view body);

// Throws ApiError(400): "The field 'FIELD' WHAT."
[[noreturn]] void refuse(const std::string& field, const std::string& what);

// The fields of one JSON object. One that is null counts as absent, as in OpenAI's API. Those that are there and not
// what they must be are refused, see refuse().
class Fields {
 public:
  // The object must outlive this one. `path`: where it stands in the request.
  explicit Fields(const Json& object, std::string path = {}) : object_(object), path_(std::move(path)) {}

  const Json* find(const char* name) const;  // null = absent
  std::string path(const char* name) const { return path_.empty() ? name : path_ + "." + name; }

  void read(const char* name, bool& out) const;
  void read(const char* name, std::string& out) const;
  void read(const char* name, float& out) const;
  // True if the field is there.
  bool read(const char* name, std::int64_t& out, std::int64_t low, std::int64_t high) const;
  void read(const char* name, int& out, std::int64_t low, std::int64_t high) const;
  void read(const Param& param, bool& out) const { read(param.name, out); }
  void read(const Param& param, float& out) const { read(param.name, out); }
  void read(const Param& param, int& out) const;
  void read(const Param& param, Mode& out) const;
  // The text of a field that must be one, `absent` without it.
  std::string text(const char* name, std::string absent = {}) const;
  // The texts of a field that must be a list of them; empty without it.
  std::vector<std::string> texts(const char* name) const;
  // The object, or list, of a field that must be one; null = absent.
  const Json* object(const char* name) const;
  const Json* list(const char* name) const;
  // The objects of a field that must be a list of them; empty without it.
  std::vector<Fields> objects(const char* name) const;
  const Json& json() const { return object_; }
  // Refuses fields that would change the answer if they were ignored. Those that ask for nothing are taken: false, 0
  // and what is empty.
  void refuse_unsupported(std::initializer_list<const char*> names) const;
  // Refuses a field with another value than these.
  void only(const char* name, std::initializer_list<Json> values) const;

 private:
  const Json& object_;
  std::string path_;
};

}  // namespace gsd::server
