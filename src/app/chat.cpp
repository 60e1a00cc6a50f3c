// gsd chat: a conversation in the model's own chat template; the memory of earlier turns is reused.
#include <fmt/format.h>
#include <unistd.h>

#include <functional>
#include <iostream>
#include <memory>

#include "../chat/control_tokens.h"
#include "../core/utf8.h"
#include "chat_format.h"
#include "commands.h"
#include "console.h"
#include "options.h"

namespace gsd::app {
namespace {

class Chat {
 public:
  Chat(Runtime& pair, const chat::ChatFormat& format, chat::Json variables, SessionOptions options)
      : pair_(pair),
        format_(format),
        variables_(std::move(variables)),
        control_(pair.target().n_vocab(), [&pair](Token t, bool special) { return pair.target().piece(t, special); }) {
    options.on_token = [this](Token t) { return on_token(t); };
    if (options.constraint) failure_ = options.constraint->failure;
    session_ = pair.engine().open(std::move(options));
  }

  // Answers one turn. Ctrl-C ends the answer and the conversation. Throws Error(kIo) if nobody reads the answer.
  void turn(std::vector<ChatMessage>& messages) {
    const Stats before = session_->stats();
    answer_.clear();
    pair_.engine().set_prompt(*session_, prompt_of(messages));
    while (!interrupted() && pair_.engine().prefill(*session_) > 0) {
    }
    Session* list[] = {session_.get()};
    while (!session_->finished() && !interrupted()) pair_.engine().step(list);
    print(utf8_.flush());
    messages.push_back({"assistant", answer_});
    const Stats& after = session_->stats();
    const double ms = after.total_ms - before.total_ms;
    const auto n = after.emitted - before.emitted;
    const std::string costs = fmt::format(
        "\n[{} tokens, {:.1f} tokens/s, {:.2f} per step, {} prompt tokens reused{}]\n", n,
        ms > 0 ? 1000 * static_cast<double>(n) / ms : 0,
        after.steps > before.steps ? static_cast<double>(n) / static_cast<double>(after.steps - before.steps) : 0,
        session_->n_reused(),
        session_->finish() == FinishReason::kContextFull ? "; the context is full, start a new chat" : "");
    std::fputs(costs.c_str(), stderr);
    if (const std::string why = failure_ ? failure_() : ""; !why.empty()) throw Error(ErrorCode::kGrammar, why);
    if (closed_) throw Error(ErrorCode::kIo, "The output was closed before the answer was complete.");
  }

 private:
  std::vector<Token> prompt_of(const std::vector<ChatMessage>& messages) const {
    chat::ChatRequest request;
    for (const ChatMessage& m : messages) request.messages.push_back({{"role", m.role}, {"content", m.content}});
    request.variables = variables_;
    return chat::tokenize_prompt(
        format_.render(request), control_,
        [this](std::string_view text, bool add, bool parse) { return pair_.target().tokenize(text, add, parse); });
  }

  bool on_token(Token t) {
    if (!pair_.target().is_eog(t)) print(utf8_.push(pair_.target().piece(t)));
    return !interrupted() && !closed_;
  }
  void print(const std::string& text) {
    answer_ += text;
    if (!text.empty() && !write_out(text)) closed_ = true;
  }

  Runtime& pair_;
  const chat::ChatFormat& format_;
  chat::Json variables_;
  chat::ControlTokens control_;
  std::unique_ptr<Session> session_;
  std::function<std::string()> failure_;  // of the grammar
  Utf8Buffer utf8_;
  std::string answer_;
  bool closed_ = false;
};

int chat(const ModelFlags& flags, const TemplateFlags& chat_template, const std::string& system) {
  chat::Json variables = template_variables(chat_template);
  flags.session();  // complain about parameters before the models are loaded
  Runtime pair = load_pair(flags);
  std::vector<ChatMessage> messages;
  if (!system.empty()) messages.push_back({"system", system});
  const LoadedFormat loaded = load_format(pair.target(), chat_template);
  if (!loaded.format->problem().empty()) throw Error(ErrorCode::kModelUnsupported, loaded.warning);
  if (!loaded.warning.empty()) std::fprintf(stderr, "gsd: note: %s\n", loaded.warning.c_str());
  Chat conversation(pair, *loaded.format, std::move(variables), flags.session(pair));
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) std::fputs("Type a message; an empty line or Ctrl-D ends.\n", stderr);
  for (std::string line; !interrupted();) {
    if (terminal) write_out("> ");
    if (!std::getline(std::cin, line) || line.empty()) break;
    messages.push_back({"user", line});
    conversation.turn(messages);
  }
  pair.save_profile();
  return interrupted() ? kExitInterrupted : 0;
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
  add_mode_flag(*app, *flags);
  add_speculation_flags(*app, *flags);
  add_sampling_flags(*app, *flags);
  app->callback([=, &exit_code] { exit_code = chat(*flags, *chat_template, *system); });
}

}  // namespace gsd::app
