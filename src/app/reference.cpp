// gsd reference (hidden): the manual page and the shells' completions, made from the program's own options.
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <string_view>

#include "commands.h"
#include "console.h"

namespace gsd::app {
namespace {

using Options = std::vector<const CLI::Option*>;
using Commands = std::vector<const CLI::App*>;

// What --help shows: nothing of the empty group.
Commands commands_of(const CLI::App& program) {
  return program.get_subcommands([](const CLI::App* c) { return !c->get_group().empty(); });
}
Options options_of(const CLI::App& app) {
  return app.get_options([](const CLI::Option* o) { return !o->get_group().empty() && o->nonpositional(); });
}
Options arguments_of(const CLI::App& app) {
  return app.get_options([](const CLI::Option* o) { return !o->nonpositional(); });
}

// "-m", "--model", …
std::vector<std::string> names(const CLI::Option& o) {
  std::vector<std::string> out;
  for (const std::string& name : o.get_snames()) out.push_back("-" + name);
  for (const std::string& name : o.get_lnames()) out.push_back("--" + name);
  return out;
}
bool takes_value(const CLI::Option& o) { return o.get_items_expected_max() > 0; }
// The values that are allowed where these are words: CLI11 writes {a,b} behind the type's name.
std::vector<std::string> values(const CLI::Option& o) {
  const std::string type = o.get_type_name();
  const auto from = type.find('{');
  const auto to = type.find('}');
  if (from == std::string::npos || to == std::string::npos) return {};
  return CLI::detail::split(type.substr(from + 1, to - from - 1), ',');
}
bool takes_file(const CLI::Option& o) { return o.get_type_name().starts_with("FILE"); }

std::string replaced(std::string_view text, char wanted, std::string_view by) {
  std::string out;
  for (const char c : text) c == wanted ? out += by : out += c;
  return out;
}
// One line of a shell's description.
std::string one_line(std::string_view text) { return replaced(text, '\n', " "); }

// --- the manual page ---

// Text for roff: hyphens that can be copied, no line that reads as a request.
std::string roff(std::string_view text) {
  std::string out = replaced(replaced(text, '\\', "\\e"), '-', "\\-");
  for (std::size_t at = 0; at != std::string::npos; at = out.find('\n', at)) {
    if (at > 0) ++at;
    if (at < out.size() && (out[at] == '.' || out[at] == '\'')) out.insert(at, "\\&");
  }
  return out;
}

std::string man_option(const CLI::App& app, const CLI::Option& o) {
  const auto* formatter = dynamic_cast<const CLI::Formatter*>(app.get_formatter().get());
  std::string details = formatter == nullptr ? "" : formatter->make_option_opts(&o);
  while (details.ends_with(' ')) details.pop_back();
  const std::string name = o.nonpositional() ? fmt::format("{}", fmt::join(names(o), ", ")) : o.get_name();
  return fmt::format(".TP\n\\fB{}\\fR{}\n{}\n", roff(name), roff(details), roff(o.get_description()));
}

std::string man_command(const CLI::App& c) {
  std::string out = fmt::format(".SS gsd {}\n{}.\n", roff(c.get_name()), roff(c.get_description()));
  for (const CLI::Option* o : arguments_of(c)) out += man_option(c, *o);
  for (const CLI::Option* o : options_of(c)) out += man_option(c, *o);
  return out + fmt::format(".PP\n.EX\n{}\n.EE\n", roff(c.get_footer()));
}

std::string man_page(const CLI::App& program) {
  std::string out = fmt::format(".TH GSD 1 \"\" \"gsd {}\" \"User Commands\"\n.SH NAME\ngsd \\- {}\n", GSD_VERSION,
                                roff(program.get_description()));
  out += ".SH SYNOPSIS\n.B gsd\n\\fICOMMAND\\fR [\\fIOPTION\\fR ...]\n.SH OPTIONS\n";
  for (const CLI::Option* o : options_of(program)) out += man_option(program, *o);
  out += ".SH COMMANDS\n";
  for (const CLI::App* c : commands_of(program)) out += man_command(*c);
  return out + fmt::format(".SH EXIT STATUS AND EXAMPLES\n.EX\n{}\n.EE\n", roff(program.get_footer()));
}

// --- completions ---

std::string all_names(const CLI::App& app) {
  std::string out;
  for (const CLI::Option* o : options_of(app)) out += fmt::format("{} ", fmt::join(names(*o), " "));
  return out;
}

std::string command_names(const CLI::App& program) {
  std::string out;
  for (const CLI::App* c : commands_of(program)) out += c->get_name() + " ";
  return out;
}

// Where nothing is offered, bash completes file names.
std::string bash_completion(const CLI::App& program) {
  std::string out = fmt::format(R"(# Made by gsd reference bash.
_gsd() {{
  local words= current=${{COMP_WORDS[COMP_CWORD]}}
  if ((COMP_CWORD == 1)); then words='{}{}'; fi
  case "${{COMP_WORDS[1]}} ${{COMP_WORDS[COMP_CWORD - 1]}}" in
)",
                                command_names(program), all_names(program));
  for (const CLI::App* c : commands_of(program)) {
    for (const CLI::Option* o : options_of(*c)) {
      if (!takes_value(*o)) continue;
      const std::string before =
          fmt::format("'{0} {1}'", c->get_name(), fmt::join(names(*o), fmt::format("' | '{} ", c->get_name())));
      out += fmt::format("    {}) words='{}' ;;\n", before, fmt::join(values(*o), " "));
    }
    out += fmt::format("    '{0} '*) [[ $current != -* ]] || words='{1}' ;;\n", c->get_name(), all_names(*c));
  }
  return out + R"(  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _gsd gsd
)";
}

// 'text' in single quotes.
std::string single_quoted(std::string_view text) { return "'" + replaced(text, '\'', "'\\''") + "'"; }

std::string zsh_option(const CLI::Option& o) {
  std::string text = one_line(o.get_description());
  for (const char c : {'\\', '[', ']', ':'}) text = replaced(text, c, std::string("\\") + c);
  std::string value;
  if (takes_value(o)) {
    const std::vector<std::string> words = values(o);
    value = !words.empty()  ? fmt::format(":value:({})", fmt::join(words, " "))
            : takes_file(o) ? ":file:_files"
                            : ":value: ";
  }
  const std::vector<std::string> all = names(o);
  std::string out;
  for (const std::string& name : all) {
    const std::string others = o.get_expected_max() > 1 ? "*" : fmt::format("({})", fmt::join(all, " "));
    out += " \\\n        " + single_quoted(fmt::format("{}{}[{}]{}", others, name, text, value));
  }
  return out;
}

std::string zsh_completion(const CLI::App& program) {
  std::string out =
      "#compdef gsd\n# Made by gsd reference zsh.\n_gsd() {\n  if ((CURRENT == 2)); then\n    local -a commands=(\n";
  for (const CLI::App* c : commands_of(program))
    out += "      " + single_quoted(c->get_name() + ":" + one_line(c->get_description())) + "\n";
  out += "    )\n    _describe command commands\n    _arguments";
  for (const CLI::Option* o : options_of(program)) out += zsh_option(*o);
  out += "\n    return\n  fi\n  local command=$words[2]\n  shift words\n  ((CURRENT--))\n  case $command in\n";
  for (const CLI::App* c : commands_of(program)) {
    out += fmt::format("    {})\n      _arguments", c->get_name());
    for (const CLI::Option* o : options_of(*c)) out += zsh_option(*o);
    out += " \\\n        '*:file:_files' ;;\n";
  }
  return out + "  esac\n}\n_gsd \"$@\"\n";
}

std::string fish_option(const CLI::Option& o, const std::string& condition) {
  std::string out = fmt::format("complete -c gsd -n {}", single_quoted(condition));
  for (const std::string& name : o.get_snames()) out += (name.size() == 1 ? " -s " : " -o ") + name;
  for (const std::string& name : o.get_lnames()) out += " -l " + name;
  if (takes_value(o)) {
    const std::vector<std::string> words = values(o);
    out += takes_file(o) ? " -r -F" : " -x";
    if (!words.empty()) out += fmt::format(" -a '{}'", fmt::join(words, " "));
  }
  return out + " -d " + single_quoted(replaced(one_line(o.get_description()), '\\', "\\\\")) + "\n";
}

std::string fish_completion(const CLI::App& program) {
  std::string out = "# Made by gsd reference fish.\n";
  for (const CLI::App* c : commands_of(program))
    out += fmt::format("complete -c gsd -f -n __fish_use_subcommand -a {} -d {}\n", c->get_name(),
                       single_quoted(one_line(c->get_description())));
  for (const CLI::Option* o : options_of(program)) out += fish_option(*o, "__fish_use_subcommand");
  for (const CLI::App* c : commands_of(program)) {
    for (const CLI::Option* o : options_of(*c)) out += fish_option(*o, "__fish_seen_subcommand_from " + c->get_name());
  }
  return out;
}

}  // namespace

void add_reference(CLI::App& program) {
  auto format = std::make_shared<std::string>();
  CLI::App* app = program.add_subcommand("reference", "Print the manual page (man) or a shell's completions");
  app->group("");
  app->add_option("format", *format)->required()->check(CLI::IsMember({"man", "bash", "zsh", "fish"}));
  app->callback([format, &program] {
    const std::string text = *format == "man"    ? man_page(program)
                             : *format == "bash" ? bash_completion(program)
                             : *format == "zsh"  ? zsh_completion(program)
                                                 : fish_completion(program);
    if (!write_out(text)) throw Error(ErrorCode::kIo, "The output could not be written.");
  });
}

}  // namespace gsd::app
