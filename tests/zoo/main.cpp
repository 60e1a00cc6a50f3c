// zoo write DIR [--type PART=FORMAT]... [--set KEY=VALUE]... [NAME...]: writes DIR/NAME.gguf and DIR/NAME.draft.gguf,
// of all models or those named. zoo list: the models of the zoo. zoo unknown [FILE]: architectures of libllama that
// architectures.txt, or a report, does not mention. zoo report FILE [-j N]: checks all models and writes a table. zoo
// check [--fast] [--json] NAME: runs a model in every way and judges its texts with libllama alone.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "check.h"
#include "gsd/llama.h"
#include "zoo.h"

namespace {

using gsd::zoo::Table;

ggml_type format(const std::string& name) {
  for (int i = 0; i < GGML_TYPE_COUNT; ++i)
    if (const char* known = ggml_type_name(static_cast<ggml_type>(i)); known != nullptr && name == known)
      return static_cast<ggml_type>(i);
  throw std::runtime_error("ggml knows no format '" + name + "'");
}

gsd::zoo::Recipe make_recipe(const std::vector<std::string>& formats, int file_type) {
  gsd::zoo::Recipe recipe;
  recipe.file_type = file_type;
  for (const std::string& f : formats)
    recipe.formats.emplace_back(f.substr(0, f.find('=')), format(f.substr(f.find('=') + 1)));
  return recipe;
}

int write(const Table& table, const std::string& dir, std::vector<std::string> names,
          const std::vector<std::string>& formats, int file_type, const std::vector<std::string>& changes) {
  gsd::zoo::Recipe recipe = make_recipe(formats, file_type);
  std::filesystem::create_directories(dir);
  if (names.empty())
    for (const auto& e : table.entries) names.push_back(e.name);
  int failed = 0;
  for (const std::string& name : names) {
    try {
      gsd::zoo::Entry entry = table.entry(name);
      for (const std::string& c : changes)
        entry.metadata.emplace_back(c.substr(0, c.find('=')), c.substr(c.find('=') + 1));
      for (recipe.draft = false;; recipe.draft = true) {
        write_model(entry, GSD_MODELS_DIR "/toy-target.gguf", recipe,
                    dir + "/" + name + (recipe.draft ? ".draft.gguf" : ".gguf"));
        if (recipe.draft) break;
      }
    } catch (const std::exception& e) {
      std::fprintf(stderr, "zoo: %s: %s\n", name.c_str(), e.what());
      ++failed;
    }
  }
  return failed > 0 ? 1 : 0;
}

// `document`: the report, which must name each architecture too; empty = only the table is looked at.
int unknown(const Table& table, const std::string& document) {
  std::ifstream in(document);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  std::set<std::string> mentioned;
  for (const auto& e : table.entries) mentioned.insert(e.architecture);
  for (const auto& [architecture, why] : table.left_out) mentioned.insert(architecture);
  int count = 0;
  for (const std::string& a : gsd::zoo::known_architectures()) {
    if (mentioned.contains(a) && (document.empty() || text.find("`" + a + "`") != text.npos)) continue;
    std::printf("%s\n", a.c_str());
    ++count;
  }
  return count > 0 ? 1 : 0;
}

void print(const gsd::zoo::Report& report) {
  std::printf("%s: %s%s%s%s%s\n", report.name.c_str(), report.kind.c_str(),
              report.refused.empty() ? "" : "; refused: ", report.refused.c_str(),
              report.obstacles.empty() ? "" : "; obstacles to --exact: ", report.obstacles.c_str());
  for (const auto& c : report.cases)
    std::printf(
        "  %-24s %4d tokens, %.2f a step, %3d different, %d ties, %d other experts, %d wrong, regret %.4f, noise %.5f "
        "(own %.5f)%s %s\n",
        c.name.c_str(), c.tokens, c.per_step, c.distinct, c.ties, c.other_experts, c.wrong, c.regret, c.noise,
        c.own_noise, c.bits_equal ? ", same bits" : "", c.error.c_str());
}

int check(const Table& table, const std::string& name, gsd::zoo::CheckOptions options, bool as_json) {
  char dir[] = "/tmp/zoo-XXXXXX";
  if (mkdtemp(dir) == nullptr) throw std::runtime_error("no folder in /tmp");
  const auto remove = [](const char* d) { std::filesystem::remove_all(d); };
  const std::unique_ptr<const char, decltype(remove)> removed(dir, remove);
  options.dir = dir;
  options.vocabulary = GSD_MODELS_DIR "/toy-target.gguf";
  const gsd::zoo::Report report = check(table.entry(name), options);
  if (as_json) {
    std::printf("%s\n", to_json(report).dump().c_str());
  } else {
    print(report);
  }
  const auto failures = report.failures();
  for (const std::string& f : failures) std::fprintf(stderr, "zoo: %s: %s\n", name.c_str(), f.c_str());
  return failures.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  { const gsd::NarrowKernels start({.enabled = false}); }  // libllama
  const Table table = gsd::zoo::read_table(GSD_ZOO_TABLE);
  CLI::App app("Tiny random models of every architecture that libllama can decode");
  app.require_subcommand(1);
  int code = 0;
  std::string dir;
  std::vector<std::string> names;
  std::vector<std::string> formats;
  int file_type = 0;
  CLI::App* w = app.add_subcommand("write", "Write models and drafts");
  w->add_option("dir", dir, "Folder")->required();
  w->add_option("names", names, "Models; all without a name");
  const auto add_formats = [&](CLI::App* command) {
    command
        ->add_option("--type", formats,
                     "Format of the matrices that have PART in their names and rows that it can hold")
        ->type_name("PART=FORMAT")
        ->allow_extra_args(false);
    command->add_option("--file-type", file_type, "general.file_type");
  };
  add_formats(w);
  std::vector<std::string> changes;
  w->add_option("--set", changes, "Other metadata than architectures.txt has, for larger models")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  w->callback([&] { code = write(table, dir, names, formats, file_type, changes); });
  gsd::zoo::CheckOptions options;
  bool as_json = false;
  std::string name;
  CLI::App* c = app.add_subcommand("check", "Run a model in every way and judge its texts");
  c->add_option("name", name, "Model")->required();
  c->add_flag("--fast", options.fast, "Fewer and shorter texts");
  c->add_flag("--only-exact", options.only_exact, "Only the cases of exact mode");
  add_formats(c);
  c->add_flag("--json", as_json, "Write one JSON object");
  c->callback([&] {
    options.recipe = make_recipe(formats, file_type);
    code = check(table, name, options, as_json);
  });
  std::string file;
  int jobs = 2;
  CLI::App* r = app.add_subcommand("report", "Check all models and write the table of them");
  r->add_option("file", file, "Table (Markdown)")->required();
  r->add_option("-j,--jobs", jobs, "Models that are checked at once");
  std::string results = "zoo-results";
  r->add_option("--results", results, "Folder of results; those that stand there are not made again")
      ->capture_default_str();
  r->callback([&] {
    code = write_report(table, std::filesystem::read_symlink("/proc/self/exe"), jobs, results, file) > 0 ? 1 : 0;
  });
  app.add_subcommand("list", "List the models")->callback([&] {
    for (const auto& e : table.entries) std::printf("%s %s\n", e.name.c_str(), e.architecture.c_str());
  });
  CLI::App* u = app.add_subcommand("unknown", "List libllama's architectures that the zoo does not mention");
  u->add_option("file", file, "A report that must name them too");
  u->callback([&] { code = unknown(table, file); });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "zoo: %s\n", e.what());
    return 1;
  }
  return code;
}
