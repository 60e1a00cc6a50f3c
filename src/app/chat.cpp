// gsd chat: a conversation in the model's own chat template; the memory of earlier turns is reused.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <memory>

#include "../chat/control_tokens.h"
#include "../core/utf8.h"
#include "../util/atomic_file.h"
#include "chat_format.h"
#include "colours.h"
#include "commands.h"
#include "console.h"
#include "line_editor.h"
#include "options.h"

namespace gsd::app {
namespace {

using chat::Json;

constexpr const char* kHelp = R"(/help             these lines
/clear            forget the conversation
/regen            answer the last message anew, with another seed
/undo             take the last message and its answer back
/read FILE        put a file's text before the next message
/save FILE        write the conversation as JSON; /load FILE reads it again
/system TEXT      the system message from now on; without a text: none
/set NAME VALUE   a parameter (temperature, top_k, …, seed, max_tokens, mode, max_width, …); alone: what is set
/stats            what the conversation has cost
/quit             end (also Ctrl-D)
Alt+Enter, or a \ at its end, starts a further line; Ctrl-C stops an answer. A message that begins with / needs a blank before.
)";

std::string value_text(Mode v) { return mode_name(v); }
std::string value_text(bool v) { return v ? "true" : "false"; }
template <typename T>
std::string value_text(T v) {
  return fmt::format("{}", v);
}

void read_value(const std::string& text, Mode& out) { out = parse_mode(text); }
void read_value(const std::string& text, bool& out) {
  if (text != "true" && text != "false") throw Error(ErrorCode::kUsage, "It must be true or false.");
  out = text == "true";
}
template <typename T>
void read_value(const std::string& text, T& out) {
  if (!CLI::detail::lexical_cast(text, out))
    throw Error(ErrorCode::kUsage, fmt::format("'{}' is no number that fits here.", text));
}

class Chat {
 public:
  Chat(Runtime& pair, const chat::ChatFormat& format, Json variables, SessionOptions options, std::string system)
      : pair_(pair),
        format_(format),
        variables_(std::move(variables)),
        control_(vocabulary(pair.target())),
        options_(std::move(options)),
        system_(std::move(system)),
        coloured_(isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr) {}

  // One line or message of the person. False if the conversation ends. Throws Error(kIo) if nobody reads the answers.
  bool take(const std::string& text) {
    if (text.find_first_not_of(" \t\r\n") == std::string::npos) return true;
    if (text[0] != '/') {
      ask(text);
      return true;
    }
    const std::size_t end = text.find(' ');
    const std::string word = text.substr(0, end);
    const std::size_t rest = end == std::string::npos ? end : text.find_first_not_of(' ', end);
    if (word == "/quit" || word == "/exit") return false;
    try {
      command(word, rest == std::string::npos ? "" : text.substr(rest));
    } catch (const Error& e) {
      if (closed_) throw;
      say(e.what());
    } catch (const Json::exception&) {
      say("The file holds no conversation as /save writes it.");
    }
    return true;
  }

  // Asks back; set where somebody can answer.
  std::function<bool(const std::string& question)> agrees;

 private:
  static void say(const std::string& sentence) { std::fputs((sentence + "\n").c_str(), stderr); }

  void command(const std::string& word, const std::string& rest) {
    if (word == "/help") {
      std::fputs(kHelp, stderr);
    } else if (word == "/clear") {
      messages_ = Json::array();
      before_ = "";
    } else if (word == "/regen") {
      if (!undo()) return say("There is no message to answer anew.");
      ++options_.sampling.seed;
      session_.reset();
      ask(last_);
    } else if (word == "/undo") {
      say(undo() ? "Taken back: " + last_.substr(0, 60) : "There is nothing to take back.");
    } else if (word == "/read") {
      before_ += read_file(need(rest, "/read FILE")) + "\n\n";
      say(fmt::format("{} bytes will stand before the next message.", before_.size()));
    } else if (word == "/save") {
      const std::string text = messages().dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
      AtomicFile file(need(rest, "/save FILE"), "conversation");
      file.write(text);
      file.commit();
      say("Saved.");
    } else if (word == "/load") {
      load(read_file(need(rest, "/load FILE")));
    } else if (word == "/system") {
      system_ = rest;
    } else if (word == "/set") {
      set(rest);
    } else if (word == "/stats") {
      stats();
    } else {
      say(fmt::format("There is no command {}; /help lists them. A message that begins with / needs a blank before it.",
                      word));
    }
  }

  static const std::string& need(const std::string& value, const char* usage) {
    if (value.empty()) throw Error(ErrorCode::kUsage, fmt::format("Usage: {}", usage));
    return value;
  }

  Json messages() const {
    Json all = Json::array();
    if (!system_.empty()) all.push_back({{"role", "system"}, {"content", system_}});
    for (const Json& m : messages_) all.push_back(m);
    return all;
  }

  void load(const std::string& text) {
    const Json all = Json::parse(text);
    std::string system;
    Json list = Json::array();
    for (const Json& m : all) {
      const std::string role = m.at("role");
      const std::string content = m.at("content");
      if (role == "system") {
        system = content;
      } else if (role == "user" || role == "assistant") {
        list.push_back({{"role", role}, {"content", content}});
      } else {
        throw Error(ErrorCode::kUsage,
                    fmt::format("The conversation has a message of the role '{}', which has no place here.", role));
      }
    }
    system_ = system;
    messages_ = std::move(list);
    say(fmt::format("{} messages.", messages_.size()));
  }

  // Takes the last message of the person, and what came after it, back into last_.
  bool undo() {
    for (std::size_t i = messages_.size(); i-- > 0;) {
      if (messages_[i]["role"] != "user") continue;
      last_ = messages_[i]["content"];
      messages_.erase(messages_.begin() + static_cast<std::ptrdiff_t>(i), messages_.end());
      return true;
    }
    return false;
  }

  void set(const std::string& text) {
    const std::size_t blank = text.find(' ');
    const std::string name = text.substr(0, blank);
    SessionOptions changed = options_;
    std::string all = fmt::format("seed {}, max_tokens {}", changed.sampling.seed, changed.max_tokens);
    bool known = false;
    const std::string value = blank == std::string::npos ? "" : text.substr(text.find_last_of(' ') + 1);
    const auto visit = [&](const Param& param, auto& field) {
      all += fmt::format(", {} {}", param.name, value_text(field));
      if (known || (name != param.name && name != param.flag)) return;
      known = true;
      read_value(value, field);
    };
    visit_params(changed.sampling, visit);
    visit_params(changed.speculation, visit);
    if (text.empty()) return say(all);
    if (name == "seed" || name == "max_tokens") {
      known = true;
      name == "seed" ? read_value(value, changed.sampling.seed) : read_value(value, changed.max_tokens);
    }
    if (!known) throw Error(ErrorCode::kUsage, fmt::format("There is no parameter {}; /set alone lists them.", name));
    validate(changed.sampling);
    validate(changed.speculation);
    if (changed.sampling.dry() && !changed.sampling.dry_breakers)
      changed.sampling.dry_breakers = make_dry_breakers(vocabulary(pair_.target()), default_dry_breakers());
    if (changed.max_tokens < 1) throw Error(ErrorCode::kUsage, "max_tokens must be 1 or more.");
    options_ = std::move(changed);
    session_.reset();  // the next one has them
  }

  void stats() const {
    const Stats& s = pair_.engine().stats();
    say(fmt::format("{} messages; {} tokens in {} steps, {:.2f} per step, {:.1f} tokens/s", messages_.size(), s.emitted,
                    s.steps, s.tokens_per_step(),
                    s.total_ms > 0 ? 1000 * static_cast<double>(s.emitted) / s.total_ms : 0));
  }

  void ask(const std::string& text) {
    messages_.push_back({{"role", "user"}, {"content", before_ + text}});
    try {
      answer();
      before_ = "";
    } catch (const Error& e) {
      if (closed_) throw;
      messages_.erase(messages_.size() - 1);  // as if it had not been said
      if (interrupted()) return;
      say(e.what());
    }
  }

  // The prompt of the conversation. Where it is too long the oldest turns are dropped, if the person agrees.
  std::vector<Token> fitting_prompt() {
    while (true) {
      std::vector<Token> prompt = prompt_of(messages());
      if (!session_) session_ = open(prompt);
      try {
        pair_.engine().set_prompt(*session_, prompt);
        return prompt;
      } catch (const Error& e) {
        if (e.code() != ErrorCode::kContextFull) throw;
        const std::string sentence = fmt::format("The context is full: the conversation has {} tokens.", prompt.size());
        if (messages_.size() > 1 && agrees) say(sentence);
        if (messages_.size() == 1 || !agrees || !agrees("Drop the oldest turn and go on?"))
          throw Error(ErrorCode::kContextFull, sentence + " /undo, /clear, or a larger --ctx-size make room.");
        do {
          messages_.erase(0);
        } while (messages_.size() > 1 && messages_[0]["role"] != "user");
      }
    }
  }

  std::unique_ptr<Session> open(const std::vector<Token>& prompt) {
    SessionOptions o = options_;
    o.on_token = [this](Token t) { return on_token(t); };
    if (o.constraint) failure_ = o.constraint->failure;
    return pair_.engine().open(std::move(o), prompt);
  }

  // Answers the conversation. Ctrl-C ends the answer, which is kept as far as it got.
  void answer() {
    answer_.clear();
    fitting_prompt();
    const Stats before = session_->stats();
    try {
      run_to_end(pair_.engine(), *session_, [](std::size_t) { return !interrupted(); });
    } catch (const Error&) {
      if (!interrupted()) throw;  // a pass that Ctrl-C ended
    }
    print(utf8_.flush());
    if (coloured_) write_out(colours_.finish());
    if (!answer_.empty() || !interrupted()) messages_.push_back({{"role", "assistant"}, {"content", answer_}});
    const Stats& after = session_->stats();
    const double ms = after.total_ms - before.total_ms;
    const auto n = after.emitted - before.emitted;
    say(fmt::format(
        "\n[{} tokens, {:.1f} tokens/s, {:.2f} per step, {} prompt tokens reused{}{}]", n,
        ms > 0 ? 1000 * static_cast<double>(n) / ms : 0,
        after.steps > before.steps ? static_cast<double>(n) / static_cast<double>(after.steps - before.steps) : 0,
        session_->n_reused(), interrupted() ? "; stopped" : "",
        session_->finish() == FinishReason::kContextFull ? "; the context is full: older turns must go" : ""));
    if (const std::string why = failure_ ? failure_() : ""; !why.empty()) throw Error(ErrorCode::kGrammar, why);
    if (closed_) throw Error(ErrorCode::kIo, "The output was closed before the answer was complete.");
  }

  std::vector<Token> prompt_of(Json all) const {
    chat::ChatRequest request;
    request.messages = std::move(all);
    request.variables = variables_;
    return chat::tokenize_prompt(format_.render(request), control_, vocabulary(pair_.target()));
  }

  bool on_token(Token t) {
    if (!pair_.target().is_eog(t)) print(utf8_.push(pair_.target().piece(t)));
    return !interrupted() && !closed_;
  }
  void print(const std::string& text) {
    answer_ += text;
    if (!text.empty() && !write_out(coloured_ ? colours_.push(text) : text)) closed_ = true;
  }

  Runtime& pair_;
  const chat::ChatFormat& format_;
  Json variables_;
  chat::ControlTokens control_;
  SessionOptions options_;
  std::string system_;
  Json messages_ = Json::array();  // without the system's
  std::string before_;             // what /read has taken in
  std::string last_;               // what undo() took back
  std::unique_ptr<Session> session_;
  std::function<std::string()> failure_;  // of the grammar
  Utf8Buffer utf8_;
  MarkdownColours colours_;
  std::string answer_;
  bool coloured_;
  bool closed_ = false;
};

int chat(const ModelFlags& flags, const TemplateFlags& chat_template, const std::string& system) {
  Json variables = template_variables(chat_template);
  flags.session();  // complain about parameters before the models are loaded
  Runtime pair = load_pair(flags);
  const LoadedFormat loaded = load_format(pair.target(), chat_template);
  if (!loaded.format->problem().empty()) throw Error(ErrorCode::kModelUnsupported, loaded.warning);
  if (!loaded.warning.empty()) std::fprintf(stderr, "gsd: note: %s\n", loaded.warning.c_str());
  Chat conversation(pair, *loaded.format, std::move(variables), flags.session(pair), system);
  LineEditor editor;
  if (editor.at_terminal()) {
    std::fputs("Type a message; /help lists commands, Ctrl-D ends.\n", stderr);
    conversation.agrees = [&editor](const std::string& question) {
      const auto reply = editor.read(question + " [Y/n] ");
      return reply && !interrupted() && (reply->empty() || (*reply)[0] == 'y' || (*reply)[0] == 'Y');
    };
  }
  bool twice = false;  // Ctrl-C with nothing between
  while (true) {
    const auto text = editor.read("> ");
    if (interrupted() && !editor.at_terminal()) return kExitInterrupted;
    if (!text || (interrupted() && twice)) break;
    twice = interrupted();
    if (twice) {
      std::fputs("Ctrl-D, or Ctrl-C once more, ends.\n", stderr);
    } else if (!conversation.take(*text)) {
      break;
    }
    if (interrupted() && !editor.at_terminal()) return kExitInterrupted;
    forget_interrupt();
  }
  pair.save_profile();
  return 0;
}

}  // namespace

void add_chat(CLI::App& program, int& exit_code) {
  auto flags = std::make_shared<ModelFlags>();
  auto chat_template = std::make_shared<TemplateFlags>();
  auto system = std::make_shared<std::string>();
  CLI::App* app = program.add_subcommand("chat", "Talk to a model with a chat template");
  app->footer(
      "Examples:\n  gsd chat -m target.gguf -d draft.gguf --temp 0.7\n  echo \"Hello\" | gsd chat -m target.gguf");
  app->add_option("--system", *system, "System message");
  add_template_flags(*app, *chat_template, "Chat");
  add_model_flags(*app, *flags);
  add_adapter_flags(*app, *flags);
  add_mode_flag(*app, *flags);
  add_speculation_flags(*app, *flags);
  add_sampling_flags(*app, *flags);
  app->callback([=, &exit_code] { exit_code = chat(*flags, *chat_template, *system); });
}

}  // namespace gsd::app
