// gsd convert-prompts: files of prompts in other forms to the one that gsd bench takes.
#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <optional>

#include "../bench/prompt_file.h"
#include "../util/atomic_file.h"
#include "commands.h"
#include "console.h"

namespace gsd::app {
namespace {

struct ConvertFlags {
  std::string input;
  std::string output;
  bench::PromptForm form = bench::PromptForm::kJson;
  std::string kind;
  int per_kind = 0;
};

int convert(const ConvertFlags& f) {
  std::ifstream file;
  if (f.input != "-") {
    file.open(f.input, std::ios::binary);
    if (!file)
      throw Error(ErrorCode::kIo, fmt::format("The file '{}' cannot be read: {}.", f.input, std::strerror(errno)));
  }
  std::optional<AtomicFile> out;
  if (f.output != "-") out.emplace(f.output, "file of prompts");
  std::map<std::string, int> kinds;
  bench::for_each_prompt(f.input == "-" ? std::cin : file, f.input == "-" ? "standard input" : f.input, f.form,
                         [&](bench::Prompt p) {
                           if (!f.kind.empty()) p.kind = f.kind;
                           if (f.per_kind > 0 && kinds[p.kind] == f.per_kind) return;
                           ++kinds[p.kind];
                           const std::string line = bench::prompt_json(p) + "\n";
                           if (out) {
                             out->write(line);
                           } else {
                             print(line);
                           }
                         });
  if (out) out->commit();
  for (const auto& [kind, n] : kinds)
    fmt::print(stderr, "gsd: {} prompt{} of the kind {}\n", n, n == 1 ? "" : "s", kind);
  return 0;
}

}  // namespace

void add_convert_prompts(CLI::App& program, int& exit_code) {
  auto flags = std::make_shared<ConvertFlags>();
  CLI::App* app = program.add_subcommand("convert-prompts", "Turn files of prompts into what gsd bench measures on");
  app->footer(
      R"(IN is a list or lines of JSON: ShareGPT's conversations (what the system and the person say first), requests of OpenAI's
batches, chats ({"messages": [...]}, up to the user's last message), Spec-Bench, GSM8K, or plain text (--lines, --paragraphs).
OUT has a line for each prompt: {"kind", "prompt"}, or {"kind", "messages"} for a chat, which gsd bench renders with the target's
template. gsd bench --prompts takes every one of these forms directly; a converted file can be read, cut and joined.

Examples:
  gsd convert-prompts ShareGPT_V3_unfiltered_cleaned_split.json prompts.jsonl --per-kind 200
  gsd convert-prompts batch.jsonl - | shuf -n 50 > prompts.jsonl
  gsd convert-prompts stories.txt prompts.jsonl --paragraphs --kind stories)");
  app->add_option("input", flags->input, "The prompts; - = standard input")->type_name("IN")->required();
  app->add_option("output", flags->output, "JSON lines; - = standard output")->type_name("OUT")->required();
  CLI::Option* lines = app->add_flag_callback(
      "--lines", [flags] { flags->form = bench::PromptForm::kLines; }, "IN is text; each line is a prompt");
  app->add_flag_callback(
         "--paragraphs", [flags] { flags->form = bench::PromptForm::kParagraphs; },
         "IN is text; what stands between blank lines is a prompt")
      ->excludes(lines);
  app->add_option("--kind", flags->kind, "The kind of all prompts: what gsd bench groups results by")
      ->type_name("NAME");
  app->add_option("--per-kind", flags->per_kind, "Take at most this many prompts of each kind; 0 = all")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000000000));
  app->callback([flags, &exit_code] { exit_code = convert(*flags); });
}

}  // namespace gsd::app
