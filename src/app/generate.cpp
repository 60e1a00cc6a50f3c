// gsd generate: a prompt in, text out, and what it cost.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>

#include "../chat/control_tokens.h"
#include "../server/api_error.h"
#include "../server/json_schema.h"
#include "commands.h"
#include "console.h"
#include "options.h"
#include "record.h"
#include "run.h"

namespace gsd::app {
namespace {

using nlohmann::json;

struct GenerateFlags {
  ModelFlags model;
  std::string prompt;
  std::string prompt_file;
  std::string record;
  bool compare = false;
  bool json = false;
  bool plain_text = false;  // names of control tokens are text
  bool no_echo = false;
  bool escape = false;
  std::vector<std::string> stop;
  std::string schema_file;
};

// \n, \t, \r, \\, \", \' and \xHH as what they stand for; anything else stays.
std::string unescaped(const std::string& text) {
  constexpr std::string_view kNames = "ntr\\\"'";
  constexpr std::string_view kValues = "\n\t\r\\\"'";
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::size_t k = text[i] == '\\' && i + 1 < text.size() ? kNames.find(text[i + 1]) : std::string_view::npos;
    unsigned byte = 0;
    if (k != std::string_view::npos) {
      out += kValues[k];
      ++i;
    } else if (text.substr(i, 2) == "\\x" && i + 4 <= text.size() &&
               std::from_chars(&text[i] + 2, &text[i] + 4, byte, 16).ptr == &text[i] + 4) {
      out += static_cast<char>(byte);
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

// Complains about what does not go together.
GenerateFlags checked(GenerateFlags flags) {
  if (!flags.prompt.empty() && !flags.prompt_file.empty())
    throw Error(ErrorCode::kUsage, "The prompt was given twice; use either -p or -f.");
  if (flags.escape) {
    flags.prompt = unescaped(flags.prompt);
    for (std::string& s : flags.stop) s = unescaped(s);
  }
  if (std::find(flags.stop.begin(), flags.stop.end(), "") != flags.stop.end())
    throw Error(ErrorCode::kUsage, "--stop needs a text that is not empty.");
  if (flags.schema_file.empty()) return flags;
  if (!flags.model.grammar.empty() || !flags.model.grammar_file.empty())
    throw Error(ErrorCode::kUsage, "--json-schema and a grammar cannot be given together.");
  try {
    flags.model.grammar = server::schema_grammar(server::Json::parse(read_file(flags.schema_file)));
  } catch (const server::ApiError& e) {
    throw Error(ErrorCode::kGrammar, e.what());
  } catch (const json::exception&) {
    throw Error(ErrorCode::kGrammar, fmt::format("The file '{}' is no JSON.", flags.schema_file));
  }
  return flags;
}

void print_summary(const Run& r, const Run* plain, const std::string& mode) {
  const Stats& s = r.stats;
  const auto per_step = [&](std::int64_t n) {
    return s.steps > 0 ? static_cast<double>(n) / static_cast<double>(s.steps) : 0;
  };
  const double rest = s.total_ms - s.draft_ms - s.verify_ms - s.sequence_ms;
  const auto share = [&](double ms) { return s.total_ms > 0 ? 100 * ms / s.total_ms : 0; };
  std::string out =
      fmt::format("\n{} tokens in {:.2f} s: {:.1f} tokens/s ({}), ended: {}\n", r.tokens.size(), r.decode_ms / 1000,
                  r.tokens_per_second(), mode, interrupted() ? "interrupted" : finish_reason_name(r.finish));
  if (plain != nullptr) {
    out += fmt::format("plain decoding: {:.1f} tokens/s, so {:.2f}x; ", plain->tokens_per_second(),
                       r.tokens_per_second() / std::max(1e-9, plain->tokens_per_second()));
    const auto [a, b] = std::mismatch(r.tokens.begin(), r.tokens.end(), plain->tokens.begin(), plain->tokens.end());
    if (a == r.tokens.end() && b == plain->tokens.end()) {
      out += "the same text\n";
    } else {
      const auto at = static_cast<std::size_t>(a - r.tokens.begin());
      out += fmt::format(
          "texts differ from token {} on, where the two best were {:.2g} apart (kernels round differently at different "
          "widths; --exact avoids it)\n",
          at, at < plain->margins.size() ? plain->margins[at] : 0.0F);
    }
  }
  out += fmt::format(
      "per step: {:.2f} tokens emitted, {:.1f} drafted, {:.1f} merged, {:.1f} verified; {:.1f} draft passes\n",
      s.tokens_per_step(), per_step(s.drafted), per_step(s.merged), per_step(s.verified), per_step(s.draft_forwards));
  if (!s.drafter[1].name.empty())
    visit_drafters(
        [&](std::string_view name, const DraftStats& d) {
          out += fmt::format(
              "{}: {:.2f} passes a step, {:.1f} % of the time; {:.2f} of its tokens verified, {:.2f} accepted\n", name,
              per_step(d.forwards), share(d.ms), per_step(d.verified), per_step(d.accepted));
        },
        s);
  out += fmt::format("time: draft {:.0f} %, verify {:.0f} %, sequences {:.1f} %, rest {:.1f} % ({:.0f} us a step)\n",
                     share(s.draft_ms), share(s.verify_ms), share(s.sequence_ms), share(rest),
                     s.steps > 0 ? 1000 * rest / static_cast<double>(s.steps) : 0);
  std::fputs(out.c_str(), stderr);
}

int generate(const GenerateFlags& given) {
  const GenerateFlags flags = checked(given);
  flags.model.session();  // complain about parameters before the models are loaded
  std::string text = read_prompt(flags.prompt, flags.prompt_file);
  Runtime pair = load_pair(flags.model);
  const std::vector<Token> prompt =
      chat::tokenize_text(text, flags.plain_text ? ParseControl::kNo : ParseControl::kYes, vocabulary(pair.target()));
  std::unique_ptr<Recorder> recorder;
  if (!flags.record.empty()) recorder = std::make_unique<Recorder>(flags.record, pair, text);
  const Run r =
      run_prompt(pair, prompt, flags.model.session(pair),
                 {.stream = !flags.json, .before = flags.no_echo ? "" : text, .stop = flags.stop}, recorder.get());
  if (recorder) {
    if (!r.closed) recorder->drafts(pair, prompt, r.tokens, flags.model.session());
    recorder->close();
  }
  Run plain;
  const bool compare = flags.compare && !interrupted() && !r.closed;
  if (compare) {
    SessionOptions o = flags.model.session(pair);
    o.speculation.mode = Mode::kPlain;
    o.max_tokens = static_cast<std::int64_t>(r.tokens.size());
    plain = run_prompt(pair, prompt, std::move(o), {.stop = flags.stop}, nullptr);
  }
  pair.save_profile();
  if (flags.json) {
    json j = to_json(r);
    j["mode"] = flags.model.mode;
    j["prompt_tokens"] = prompt.size();
    j["seed"] = flags.model.sampling.seed;
    if (compare) j["plain"] = to_json(plain);
    print(j.dump(1, ' ', false, json::error_handler_t::replace) + "\n");
  } else {
    print_summary(r, compare ? &plain : nullptr, flags.model.mode);
  }
  if (r.closed) throw Error(ErrorCode::kIo, "The output was closed before the text was complete.");
  return interrupted() ? kExitInterrupted : 0;
}

}  // namespace

void add_generate(CLI::App& program, int& exit_code) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* app = program.add_subcommand("generate", "Continue a prompt");
  app->footer(R"(Examples:
  gsd generate -m target.gguf -d draft.gguf -p "# tar"
  gsd generate -m target.gguf -d draft.gguf -f prompt.txt --temp 0.8 --seed 7 -n 500
  gsd generate -m target.gguf -d draft.gguf -p "Question:" --mode graph --merge-length 1 --width 12 --compare
  echo "# ls" | gsd generate -m target.gguf --json)");
  app->add_option("-p,--prompt", flags->prompt, "The prompt");
  app->add_option("-f,--file", flags->prompt_file, "The prompt from a file; - = standard input")->type_name("FILE");
  app->add_flag("--no-parse-special", flags->plain_text, "Take names of control tokens in the prompt as text");
  app->add_flag("--escape", flags->escape, "Read \\n, \\t, \\xHH and the like in -p and --stop as what they stand for");
  app->add_flag("--no-echo", flags->no_echo, "Write what is generated without the prompt");
  app->add_option("--stop", flags->stop, "End before this text; may be given several times")->type_name("TEXT");
  app->add_option("--json-schema", flags->schema_file,
                  "The text must be JSON that is valid under the schema in this file")
      ->type_name("FILE");
  app->add_flag("--compare", flags->compare, "Decode plainly afterwards and compare speed and text");
  app->add_flag("--json", flags->json, "Write one JSON object instead of the text");
  app->add_option("--record", flags->record,
                  "Write every step and what the draft would answer to this file, for gsd trace and gsd simulate")
      ->type_name("FILE");
  add_model_flags(*app, flags->model);
  add_adapter_flags(*app, flags->model);
  add_mode_flag(*app, flags->model);
  add_speculation_flags(*app, flags->model);
  add_sampling_flags(*app, flags->model);
  app->callback([flags, &exit_code] { exit_code = generate(*flags); });
}

}  // namespace gsd::app
