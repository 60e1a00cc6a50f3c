#include "requests.h"

#include <algorithm>
#include <charconv>

#include "world.h"

namespace gsd::sim {
namespace {

using server::Json;

// What plain decoding alone would say, cut before the stop text.
std::string alone(const std::string& prompt, const SamplingParams& sampling, int most) {
  static const Script script = whole_prefix(0);
  Sampler sampler(sampling);
  std::vector<Token> text(prompt.begin(), prompt.end());
  std::vector<float> logits(128);
  std::string out;
  for (int i = 0; i < most; ++i) {
    script(text, logits);
    const Token t = sampler.choose(logits, static_cast<std::uint32_t>(i), text, nullptr).token;
    if (t == 0) break;
    text.push_back(t);
    out += static_cast<char>(t);
  }
  return out;
}

// Breaks JSON, a little or altogether.
std::string broken(const Draw& draw, std::string body) {
  const std::size_t at = draw(body.size());
  switch (draw(4)) {
    case 0:
      return body.substr(0, at);
    case 1:
      return std::string(1 + draw(2000), '[');
    case 2:
      return body.insert(at, 1, static_cast<char>(draw(31))).insert(0, "{");
    default:
      return body + "}";
  }
}

std::string http_text(const Draw& draw, const std::string& method, const std::string& path, const std::string& body,
                      const std::string& key) {
  std::string out = method + " " + path + " HTTP/1.1\r\nHost: localhost\r\n";
  if (!key.empty()) out += draw(2) == 0 ? "Authorization: Bearer " + key + "\r\n" : "X-Api-Key: " + key + "\r\n";
  if (method != "POST") return out + "\r\n";
  if (draw(2) == 0) out += "Content-Type: application/json\r\n";
  if (draw(3) != 0) return out + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  out += "Transfer-Encoding: chunked\r\n\r\n";
  for (std::size_t at = 0; at < body.size();) {
    const std::size_t n = std::min(body.size() - at, static_cast<std::size_t>(1 + draw(200)));
    char size[16];
    const auto end = std::to_chars(size, size + sizeof size, n, 16).ptr;
    out += std::string(size, end) + "\r\n" + body.substr(at, n) + "\r\n";
    at += n;
  }
  return out + "0\r\n\r\n";
}

// The body of a generation, in the words of its API.
Json body_of(const Draw& draw, Wish& w, const std::string& prompt, std::string& path) {
  using Api = Wish::Api;
  const Json messages = Json::array({{{"role", "user"}, {"content", prompt}}});
  switch (w.api) {
    case Api::kCompletion:
      path = "/v1/completions";
      return {{"prompt", prompt}};
    case Api::kChat:
      path = draw(2) == 0 ? "/v1/chat/completions" : "/chat/completions";
      return {{"messages", messages}};
    case Api::kNative:
      path = "/completion";
      return {{"prompt", prompt}};
    case Api::kMessage:
      path = "/v1/messages";
      return {{"messages", messages}, {"model", "ascii"}};
    default:
      path = "/v1/responses";
      return {{"input", prompt}};
  }
}

// What several APIs have in common. The text it must give goes to `w`.
void draw_options(const Draw& draw, Wish& w, const std::string& prompt, Json& body) {
  using Api = Wish::Api;
  const bool openai = w.api == Api::kCompletion || w.api == Api::kChat || w.api == Api::kNative;
  SamplingParams sampling;
  if (openai && draw(2) == 0) sampling.temperature = 0.5F;
  sampling.seed = draw(1000);
  body["temperature"] = sampling.temperature;
  if (openai) body["seed"] = sampling.seed;
  const int most = 1 + static_cast<int>(draw(60));
  body[w.api == Api::kResponse ? "max_output_tokens" : w.api == Api::kNative ? "n_predict" : "max_tokens"] = most;
  w.stream = draw(2) == 0;
  body["stream"] = w.stream;
  const std::size_t n = openai && draw(5) == 0 ? 1 + draw(3) : 1;
  if (n > 1) body["n"] = n;
  const bool chat = w.api != Api::kCompletion && w.api != Api::kNative;
  for (std::size_t i = 0; i < n; ++i) {
    sampling.choice = static_cast<std::uint32_t>(i);
    w.expected.push_back(alone(chat ? "<user>" + prompt + "<assistant>" : prompt, sampling, most));
  }
  w.uncut = w.expected;
  if (w.api != Api::kResponse && draw(4) == 0 && !w.expected[0].empty()) {
    const std::string stop = w.expected[0].substr(draw(w.expected[0].size()), 1 + draw(3));
    body[w.api == Api::kMessage ? "stop_sequences" : "stop"] = Json::array({stop, "\x01never"});
    for (std::string& text : w.expected) text = text.substr(0, text.find(stop));
  }
  if (!openai) return;
  body["speculative"] = {{"mode", mode_name(static_cast<Mode>(draw(5)))}};
  if (draw(4) == 0) body["cache_prompt"] = false;
  if (w.api == Api::kCompletion && draw(4) == 0) body["logprobs"] = draw(5);
  if (w.api == Api::kChat && draw(8) == 0) body["speculative"]["trace"] = true;
  if (w.api == Api::kNative && draw(4) == 0) body["return_progress"] = true;
}

Wish other_wish(const Draw& draw, const std::string& key) {
  constexpr const char* kPaths[] = {"/health", "/slots", "/metrics", "/props", "/v1/models", "/v1/responses/resp_1",
                                    "/nothing"};
  const std::size_t which = draw(9);
  Wish w;
  if (which >= 7) {
    w.http = http_text(draw, "POST", "/tokenize", R"({"content": "abc", "with_pieces": true})", key);
    return w;
  }
  w.http = http_text(draw, "GET", kPaths[which], "", key);
  w.status = which >= 5 ? 404 : 200;
  return w;
}

// Adds what a chunk or an answer says of one choice.
class Texts {
 public:
  explicit Texts(std::size_t n) : text(n), ended(n, false) {}
  bool add(const Json& choice, const Json* piece) {
    const std::size_t i = choice.value("index", std::size_t{0});
    if (i >= text.size()) return false;
    if (piece != nullptr && piece->is_string()) text[i] += piece->get<std::string>();
    return true;
  }
  std::vector<std::string> text;
  std::vector<bool> ended;
};

const Json* member(const Json& j, const char* name) {
  const auto at = j.find(name);
  return at == j.end() ? nullptr : &*at;
}

// False for what belongs to no choice.
bool read_choice(const Json& choice, Texts& out) {
  if (const Json* delta = member(choice, "delta")) return out.add(choice, member(*delta, "content"));
  if (const Json* message = member(choice, "message")) return out.add(choice, member(*message, "content"));
  return out.add(choice, member(choice, choice.contains("text") ? "text" : "content"));
}

bool read_whole(const Wish& w, const Json& j, Texts& out) {
  using Api = Wish::Api;
  if (w.api == Api::kNative) {
    if (!j.is_array()) return read_choice(j, out);
    return std::all_of(j.begin(), j.end(), [&](const Json& c) { return read_choice(c, out); });
  }
  const char* list = w.api == Api::kMessage ? "content" : w.api == Api::kResponse ? "output" : "choices";
  for (const Json& item : j.at(list)) {
    if (w.api == Api::kResponse) {
      for (const Json& part : item.at("content")) out.text[0] += part.at("text").get<std::string>();
    } else if (w.api == Api::kMessage) {
      out.text[0] += item.at("text").get<std::string>();
    } else if (!read_choice(item, out)) {
      return false;
    }
  }
  return true;
}

struct Ends {
  bool whole = false;
  bool failed = false;
};

bool read_event(const Wish& w, const Json& j, Texts& out, Ends& ends) {
  using Api = Wish::Api;
  const std::string type = j.value("type", "");
  if (const Json* error = member(j, "error");
      (error != nullptr && !error->is_null()) || type == "error" || type == "response.failed")
    return ends.failed = true;
  if (w.api == Api::kMessage || w.api == Api::kResponse) {
    ends.whole |= type == "message_stop" || type == "response.completed" || type == "response.incomplete";
    const Json* delta = member(j, "delta");
    if (type == "content_block_delta") out.text[0] += delta->at("text").get<std::string>();
    if (type == "response.output_text.delta") out.text[0] += delta->get<std::string>();
    return true;
  }
  if (w.api == Api::kNative) {
    if (j.value("stop", false)) out.ended.at(j.value("index", std::size_t{0})) = true;
    ends.whole = std::find(out.ended.begin(), out.ended.end(), false) == out.ended.end();
    return read_choice(j, out);
  }
  const Json& choices = j.at("choices");
  return std::all_of(choices.begin(), choices.end(), [&](const Json& c) { return read_choice(c, out); });
}

bool read_stream(const Wish& w, const std::string& body, Texts& out, Ends& ends) {
  for (std::size_t at = 0; at < body.size();) {
    const std::size_t end = body.find("\n\n", at);
    if (end == std::string::npos || ends.whole) return false;
    const std::size_t data = body.find("data: ", at);
    if (data >= end) return false;
    const std::string text = body.substr(data + 6, end - data - 6);
    at = end + 2;
    if (text == "[DONE]") {
      ends.whole = true;
    } else if (!read_event(w, Json::parse(text), out, ends)) {
      return false;
    }
  }
  return true;
}

}  // namespace

Script whole_prefix(float drift) {
  return [inner = random_script(3, kLookBack, 8, drift)](std::span<const Token> context, std::span<float> logits) {
    inner(context, logits);
    for (Token t = 0; t < 32; ++t) logits[static_cast<std::size_t>(t)] -= t == 0 ? 2 : 40;
    logits[127] -= 40;
  };
}

Wish draw_wish(const Draw& draw, const std::string& key) {
  using Api = Wish::Api;
  constexpr Api kApis[] = {Api::kCompletion, Api::kCompletion, Api::kCompletion, Api::kChat, Api::kChat,
                           Api::kNative,     Api::kMessage,    Api::kResponse,   Api::kOther};
  const bool stranger = !key.empty() && draw(8) == 0;
  const std::string& given = stranger ? "guessed" : key;
  Wish w;
  w.api = kApis[draw(std::size(kApis))];
  if (w.api == Api::kOther) {
    w = other_wish(draw, given);
  } else {
    const bool too_long = draw(20) == 0;
    std::string prompt(too_long ? 200 : 1 + draw(60), 'x');
    for (char& c : prompt) c = static_cast<char>('a' + draw(3));
    std::string path;
    Json body = body_of(draw, w, prompt, path);
    draw_options(draw, w, prompt, body);
    std::string text = body.dump(draw(3) == 0 ? 2 : -1, ' ', draw(2) == 0);
    const bool rubbish = draw(12) == 0;
    if (rubbish) text = broken(draw, std::move(text));
    if (too_long || rubbish) w.status = 400;
    w.http = http_text(draw, "POST", path, text, given);
  }
  if (stranger && !w.http.starts_with("GET /health")) w.status = 401;
  return w;
}

std::string draw_rubbish(const Draw& draw) {
  constexpr const char* kHeads[] = {"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ",
                                    "GET / HTTP/1.1\r\n",
                                    "POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                                    "\x16\x03\x01",
                                    "",
                                    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"};
  std::string out = kHeads[draw(std::size(kHeads))];
  for (std::size_t n = draw(600); n > 0; --n) out += draw(12) == 0 ? '\n' : static_cast<char>(draw(256));
  return out + (draw(2) == 0 ? "\r\n\r\n" : "");
}

std::optional<Reply> take_reply(std::string& bytes) {
  const std::size_t head = bytes.find("\r\n\r\n");
  if (head == std::string::npos) return std::nullopt;
  if (!bytes.starts_with("HTTP/1.1 ")) fail("this is no answer: " + bytes.substr(0, 200));
  Reply out{.status = std::atoi(bytes.c_str() + 9), .body = {}, .closes = false};
  const std::string_view headers(bytes.data(), head + 2);
  const auto value = [&](std::string_view name) {
    const std::size_t at = headers.find("\r\n" + std::string(name) + ": ");
    return at == std::string_view::npos
               ? std::string_view()
               : headers.substr(at + name.size() + 4, headers.find("\r\n", at + 2) - at - name.size() - 4);
  };
  out.closes = value("Connection") == "close";
  std::size_t at = head + 4;
  if (value("Transfer-Encoding") != "chunked") {
    std::size_t n = 0;
    const std::string_view length = value("Content-Length");
    std::from_chars(length.data(), length.data() + length.size(), n);
    if (bytes.size() - at < n) return std::nullopt;
    out.body = bytes.substr(at, n);
    at += n;
  } else {
    for (std::size_t n = 1; n > 0;) {
      const std::size_t end = bytes.find("\r\n", at);
      if (end == std::string::npos) return std::nullopt;
      n = std::strtoul(bytes.c_str() + at, nullptr, 16);
      if (bytes.size() < end + 2 + n + 2) return std::nullopt;
      out.body += bytes.substr(end + 2, n);
      if (bytes.compare(end + 2 + n, 2, "\r\n") != 0) fail("a chunk has no end: " + bytes.substr(at, 200));
      at = end + 2 + n + 2;
    }
  }
  bytes.erase(0, at);
  return out;
}

Verdict judge(const Wish& w, const std::string& body) {
  if (w.expected.empty()) return {};
  Texts texts(w.expected.size());
  Ends ends;
  Verdict v;
  try {
    const bool readable = w.stream ? read_stream(w, body, texts, ends) : read_whole(w, Json::parse(body), texts);
    if (!readable) return {.failed = false, .wrong = "unreadable: " + body};
  } catch (const Json::exception& e) {
    return {.failed = false, .wrong = std::string(e.what()) + " in " + body};
  }
  v.failed = ends.failed;
  if (w.stream && !ends.whole && !ends.failed) v.wrong = "the stream has no end: " + body;
  for (std::size_t i = 0; i < texts.text.size(); ++i) {
    const bool good = ends.failed ? w.uncut[i].starts_with(texts.text[i]) : w.expected[i] == texts.text[i];
    if (!good)
      v.wrong = "'" + texts.text[i] + "' is not '" + w.expected[i] + "' in " + body + "\nthe answer to " + w.http;
  }
  return v;
}

}  // namespace gsd::sim
