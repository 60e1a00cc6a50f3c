#include "fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace gsd::server {
namespace {

constexpr std::size_t kMaxKeys = 20000;

}  // namespace

Json parse_json(std::string_view body) {
  Json out;
  std::size_t n_keys = 0;
  try {
    out = Json::parse(body, [&](int depth, Json::parse_event_t event, Json&) {
      if (depth > kMaxJsonDepth)
        throw ApiError(400, fmt::format("The JSON text is nested more than {} deep.", kMaxJsonDepth));
      // An ordered object looks through its keys for each new one.
      if (event == Json::parse_event_t::key && ++n_keys > kMaxKeys)
        throw ApiError(400, fmt::format("The JSON text holds more than {} keys.", kMaxKeys));
      return true;
    });
  } catch (const Json::exception& e) {
    throw ApiError(400, fmt::format("The request is not valid JSON: {}.", e.what()), {}, "invalid_json");
  }
  return out;
}

Json parse_object(std::string_view body) {
  Json out = parse_json(body);
  if (!out.is_object()) throw ApiError(400, "The request must be a JSON object.");
  return out;
}

void refuse(const std::string& field, const std::string& what) {
  throw ApiError(400, fmt::format("The field '{}' {}.", field, what), field);
}

const Json* Fields::find(const char* name) const {
  const auto at = object_.find(name);
  return at == object_.end() || at->is_null() ? nullptr : &*at;
}

void Fields::read(const char* name, bool& out) const {
  const Json* v = find(name);
  if (v == nullptr) return;
  if (!v->is_boolean()) refuse(path(name), "must be true or false");
  out = v->get<bool>();
}

void Fields::read(const char* name, std::string& out) const {
  const Json* v = find(name);
  if (v == nullptr) return;
  if (!v->is_string()) refuse(path(name), "must be a string");
  out = v->get<std::string>();
}

void Fields::read(const char* name, float& out) const {
  const Json* v = find(name);
  if (v == nullptr) return;
  if (!v->is_number()) refuse(path(name), "must be a number");
  const double x = v->get<double>();
  if (!std::isfinite(x) || std::abs(x) > 1e30) refuse(path(name), "must be a finite number of ordinary size");
  out = static_cast<float>(x);
}

bool Fields::read(const char* name, std::int64_t& out, std::int64_t low, std::int64_t high) const {
  const Json* v = find(name);
  if (v == nullptr) return false;
  // A whole number may come as 3.0; beyond 2^53 only integers are exact.
  const bool whole = v->is_number_integer() || (v->is_number() && std::abs(v->get<double>()) < 0x1p53 &&
                                                std::trunc(v->get<double>()) == v->get<double>());
  const bool huge = v->is_number_unsigned() && v->get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX);
  const std::int64_t x = whole && !huge ? v->get<std::int64_t>() : 0;
  if (!whole || huge || x < low || x > high)
    refuse(path(name), fmt::format("must be a whole number from {} to {}", low, high));
  out = x;
  return true;
}

void Fields::read(const char* name, int& out, std::int64_t low, std::int64_t high) const {
  std::int64_t x = 0;
  if (read(name, x, low, high)) out = static_cast<int>(x);
}

void Fields::read(const Param& param, int& out) const {
  read(param.name, out, static_cast<std::int64_t>(param.low), static_cast<std::int64_t>(param.high));
}

void Fields::read(const Param& param, Mode& out) const {
  std::string name(mode_name(out));
  read(param.name, name);
  out = parse_mode(name);
}

std::string Fields::text(const char* name, std::string absent) const {
  read(name, absent);
  return absent;
}

std::vector<std::string> Fields::texts(const char* name) const {
  std::vector<std::string> out;
  const Json* v = list(name);
  if (v == nullptr) return out;
  for (const Json& text : *v) {
    if (!text.is_string()) refuse(path(name), "must be a list of strings");
    out.push_back(text.get<std::string>());
  }
  return out;
}

const Json* Fields::object(const char* name) const {
  const Json* v = find(name);
  if (v != nullptr && !v->is_object()) refuse(path(name), "must be an object");
  return v;
}

const Json* Fields::list(const char* name) const {
  const Json* v = find(name);
  if (v != nullptr && !v->is_array()) refuse(path(name), "must be a list");
  return v;
}

std::vector<Fields> Fields::objects(const char* name) const {
  std::vector<Fields> out;
  const Json* v = list(name);
  if (v == nullptr) return out;
  for (const Json& object : *v) {
    if (!object.is_object()) refuse(path(name), "must hold objects");
    out.emplace_back(object, path(name));
  }
  return out;
}

void Fields::refuse_unsupported(std::initializer_list<const char*> names) const {
  for (const char* name : names) {
    const Json* v = find(name);
    if (v != nullptr && *v != Json(false) && *v != Json(0) && *v != Json("") && !(v->is_structured() && v->empty()))
      refuse(path(name), "is not supported by this server");
  }
}

void Fields::only(const char* name, std::initializer_list<Json> values) const {
  const Json* v = find(name);
  if (v == nullptr || std::find(values.begin(), values.end(), *v) != values.end()) return;
  std::string names;
  for (const Json& j : values) names += (names.empty() ? "" : " or ") + j.dump();
  refuse(path(name), fmt::format("may only be {}; this server has nothing else", names));
}

}  // namespace gsd::server
