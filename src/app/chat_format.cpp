#include "chat_format.h"

#include "../llama/special_texts.h"
#include "console.h"
#include "options.h"

namespace gsd::app {
namespace {

// `model` must outlive it.
std::shared_ptr<const chat::ChatFormat> named(const Model& model, const std::string& name) {
  return std::make_shared<chat::NamedFormat>(name, [&model, name](const auto& messages, bool add_assistant) {
    std::vector<ChatMessage> list;
    for (const auto& [role, content] : messages) list.push_back({role, content});
    return model.apply_template(list, add_assistant, name);
  });
}

// ChatML as a template, so that /props can give it to clients that render by themselves.
constexpr const char* kChatMl =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

}  // namespace

void add_template_flags(CLI::App& app, TemplateFlags& flags, const std::string& group) {
  CLI::Option* text = app.add_option("--chat-template", flags.text,
                                     "A chat template in Jinja, or one of libllama's by name (chatml, llama3, …); the "
                                     "model's own if not given")
                          ->group(group);
  app.add_option("--chat-template-file", flags.file, "A chat template in Jinja from a file")
      ->type_name("FILE")
      ->group(group)
      ->excludes(text);
  app.add_option("--chat-template-kwargs", flags.variables,
                 R"(Further variables for the template, a JSON object: {"enable_thinking": false})")
      ->type_name("JSON")
      ->group(group);
}

LoadedFormat load_format(const Model& model, const TemplateFlags& flags) {
  const SpecialTexts texts = special_texts(model);
  const auto jinja = [&](const std::string& source) {
    return std::make_shared<chat::JinjaFormat>(source, texts.bos, texts.eos);
  };
  const std::string asked = flags.file.empty() ? flags.text : read_file(flags.file);
  const bool is_name =
      flags.file.empty() && asked.find("{{") == std::string::npos && asked.find("{%") == std::string::npos;
  LoadedFormat out;
  out.own = true;
  if (!asked.empty() && is_name) {
    out.format = asked == "chatml" ? jinja(kChatMl) : named(model, asked);
    return out;
  }
  const std::string source = asked.empty() ? model.chat_template() : asked;
  if (source.empty()) {
    out = {jinja(kChatMl), false, "the model has no chat template; chats use chatml. --chat-template names another."};
    return out;
  }
  out.format = jinja(source);
  if (const std::string problem = out.format->problem(); !problem.empty()) {
    out.warning = problem + " Chats are refused; give another with --chat-template or --chat-template-file.";
    out.own = !asked.empty();
  }
  return out;
}

chat::Json template_variables(const TemplateFlags& flags) {
  if (flags.variables.empty()) return chat::Json::object();
  chat::Json out = chat::Json::parse(flags.variables, nullptr, false);
  if (!out.is_object()) throw Error(ErrorCode::kUsage, "--chat-template-kwargs needs a JSON object.");
  return out;
}

}  // namespace gsd::app
