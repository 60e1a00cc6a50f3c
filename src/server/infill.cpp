#include "infill.h"

#include <algorithm>

#include "fields.h"

namespace gsd::server {
namespace {

void check(const FillTokens& f) {
  std::string lacking;
  const auto add = [&](Token t, const char* name) {
    if (t < 0) lacking += (lacking.empty() ? "" : ", ") + std::string(name);
  };
  add(f.prefix, "prefix");
  add(f.suffix, "suffix");
  add(f.middle, "middle");
  if (!lacking.empty())
    throw ApiError(501, "This model cannot fill in: its vocabulary has no token for " + lacking + ".");
}

void append(std::vector<Token>& out, const std::vector<Token>& more) {
  out.insert(out.end(), more.begin(), more.end());
}

// The other files, each under its name where the vocabulary has a token for that, and the name of the one in question.
std::vector<Token> extra_tokens(const InfillRequest& r, const Vocabulary& v) {
  const auto text = [&](const std::string& t) { return v.tokenize(t, AddBegin::kNo, ParseControl::kNo); };
  std::vector<Token> out;
  if (v.fill.repository >= 0) {
    out.push_back(v.fill.repository);
    append(out, text("myproject\n"));
  }
  for (const InfillRequest::Extra& e : r.extra) {
    if (v.fill.file >= 0) {
      out.push_back(v.fill.file);
      append(out, text(e.filename + "\n"));
    } else {
      append(out, text("\n\n--- snippet ---\n\n"));
    }
    append(out, text(e.text));
  }
  if (v.fill.file >= 0) {
    out.push_back(v.fill.file);
    append(out, text("filename\n"));
  }
  return out;
}

}  // namespace

InfillRequest parse_infill(std::string_view body, const RequestDefaults& defaults) {
  const Json object = parse_object(body);
  const Fields f(object);
  InfillRequest r;
  r.completion = read_native(object, defaults);
  for (const char* name : {"input_prefix", "input_suffix"}) {
    if (f.find(name) == nullptr) refuse(name, "is missing");
  }
  f.read("input_prefix", r.prefix);
  f.read("input_suffix", r.suffix);
  f.read("prompt", r.prompt);
  const Json* extra = f.list("input_extra");
  for (std::size_t i = 0; extra != nullptr && i < extra->size(); ++i) {
    const std::string path = "input_extra[" + std::to_string(i) + "]";
    if (!(*extra)[i].is_object()) refuse(path, "must be an object with a text");
    const Fields e((*extra)[i], path);
    if (e.find("text") == nullptr) refuse(e.path("text"), "is missing");
    r.extra.push_back({e.text("filename", "tmp"), e.text("text")});
  }
  return r;
}

std::vector<InfillRequest> with_suffix(const CompletionRequest& r) {
  std::vector<InfillRequest> out;
  for (const Prompt& p : r.prompts) {
    if (p.size() != 1 || !p[0].tokens.empty()) refuse("suffix", "needs prompts that are texts");
    InfillRequest fill;
    fill.completion.max_tokens = r.max_tokens;
    fill.prefix = p[0].text;
    fill.suffix = r.suffix;
    out.push_back(std::move(fill));
  }
  return out;
}

std::vector<Token> infill_prompt(const InfillRequest& r, const Vocabulary& v, int n_ctx) {
  check(v.fill);
  const auto text = [&](const std::string& t) { return v.tokenize(t, AddBegin::kNo, ParseControl::kNo); };
  const std::vector<Token> begin = v.tokenize("", AddBegin::kYes, ParseControl::kNo);
  const std::vector<Token> prefix = text(r.prefix);
  const std::vector<Token> suffix = text(r.suffix);
  const std::vector<Token> prompt = v.tokenize(r.prompt, AddBegin::kNo, ParseControl::kYes);
  const std::vector<Token> extra = extra_tokens(r, v);
  const std::int64_t wanted = r.completion.max_tokens;
  const std::int64_t answer = wanted >= 0 && wanted <= n_ctx / 2 ? wanted : n_ctx / 4;
  const auto taken = answer + static_cast<std::int64_t>(begin.size() + prompt.size()) + 4;  // fill tokens, the next one
  std::size_t room = static_cast<std::size_t>(std::max<std::int64_t>(0, n_ctx - taken));
  const std::size_t n_suffix = std::min(suffix.size(), std::max(room / 4, room - std::min(room, prefix.size())));
  room -= n_suffix;
  const std::size_t n_prefix = std::min(prefix.size(), room);
  room -= n_prefix;
  std::vector<Token> out = begin;
  out.insert(out.end(), extra.end() - static_cast<std::ptrdiff_t>(std::min(extra.size(), room)), extra.end());
  out.push_back(v.fill.prefix);
  out.insert(out.end(), prefix.end() - static_cast<std::ptrdiff_t>(n_prefix), prefix.end());
  append(out, prompt);
  out.push_back(v.fill.suffix);
  out.insert(out.end(), suffix.begin(), suffix.begin() + static_cast<std::ptrdiff_t>(n_suffix));
  out.push_back(v.fill.middle);
  return out;
}

}  // namespace gsd::server
