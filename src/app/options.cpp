#include "options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <random>
#include <sstream>
#include <vector>

#include "console.h"

namespace gsd::app {
namespace {

// Other ways to write a number that llama.cpp's programs take.
CLI::Transformer also(const char* word, const char* number) {
  return CLI::Transformer(std::map<std::string, std::string>{{word, number}});
}

// Where nothing else is said all layers of the target go to other machines.
void use_servers(const std::vector<std::string>& addresses, ModelFlags& f) {
  if (addresses.empty()) throw Error(ErrorCode::kUsage, "--rpc needs the address of a machine, HOST:PORT.");
  fmt::print(stderr,
             "gsd: note: RPC has no encryption and no password: whoever reaches the ports of --rpc can read and change "
             "what is computed there; use it in a network that you trust.\n");
  add_rpc_servers(addresses);
  if (!f.pair.target_place.layers) f.pair.target_place.layers = -1;
}

void add_device_flags(CLI::App& app, ModelFlags& f) {
  const auto group = [&](CLI::Option* o) { return o->group("Devices"); };
  Placement& target = f.pair.target_place;
  Placement& draft = f.pair.draft_place;
  const auto layers = [&](const char* names, std::optional<int>& field, const char* help) {
    group(app.add_option(names, field, help))
        ->transform(CLI::Transformer(std::map<std::string, std::string>{{"all", "-1"}, {"auto", "-1"}}))
        ->check(CLI::Range(-1, 10000));
  };
  const auto names = [&](const char* flag, std::vector<std::string>& field, const char* help) {
    group(app.add_option_function<std::string>(
              flag, [&field](const std::string& v) { field = parse_devices(v); }, help))
        ->type_name("NAME,...");
  };
  layers("--gpu-layers,--n-gpu-layers", target.layers,
         "Layers of the target that lie on devices; -1, all or auto = all. Without it all if devices are named, else "
         "none");
  layers("--gpu-layers-draft", draft.layers, "The same for the draft");
  names("--device", target.devices,
        "Devices for the target, as --list-devices names them, or none; without it all there are");
  names("--device-draft,--spec-draft-device", draft.devices, "Devices for the draft; without it those of the target");
  const std::map<std::string_view, SplitMode>& modes = split_modes_by_name();
  group(app.add_option_function<std::string>(
            "--split-mode", [&target, &modes](const std::string& v) { target.split = modes.at(v); },
            "What lies on which of several devices: whole layers (layer), everything on one (none), parts of each "
            "matrix (row, tensor) where the devices can"))
      ->default_str("layer")
      ->check(CLI::IsMember({"layer", "none", "row", "tensor"}));
  group(app.add_option_function<std::string>(
            "--tensor-split", [&target](const std::string& v) { target.shares = parse_shares(v); },
            "Shares of the devices, as 3,1; without it by their free memory"))
      ->type_name("N,...");
  group(app.add_option("--main-gpu", target.main_device, "The device for everything with --split-mode none, from 0"))
      ->capture_default_str()
      ->check(CLI::Range(0, 1000));
  group(app.add_option_function<std::string>(
            "--rpc", [&f](const std::string& v) { use_servers(split(v, ','), f); },
            "Machines that run ggml-rpc-server: their devices take the target's layers. Nothing is encrypted and "
            "nobody is "
            "asked who they are: only for a network that you trust"))
      ->type_name("HOST:PORT,...")
      ->trigger_on_parse();
  group(app.add_flag_callback(
            "--list-devices", [] { throw CLI::CallForVersion(device_list(), 0); }, "List the devices and end"))
      ->trigger_on_parse();
}

}  // namespace

std::string device_list() {
  std::string out = "Available devices:";
  const std::vector<Device> all = devices();
  for (const Device& d : all)
    out += fmt::format("\n  {}: {} ({} MiB, {} MiB free)", d.name, d.description, d.bytes >> 20, d.bytes_free >> 20);
  return all.empty() ? out + "\n  (none)" : out;
}

void add_target_flags(CLI::App& app, ModelFlags& f) {
  const auto group = [&](CLI::Option* o) { return o->group("Models"); };
  group(app.add_option("-m,--model", f.pair.target, "Target model (GGUF)"))->required()->type_name("FILE");
  group(app.add_option("-c,--ctx-size", f.pair.context.n_ctx,
                       "Positions of the context; 0 = the target's own, at most 4096"))
      ->default_val(0)
      ->check(CLI::Range(0, 1 << 24));
  group(app.add_option("-t,--threads", f.pair.context.n_threads,
                       "Most threads of a pass, which one alone computes where that is faster; 0 = one per core"))
      ->default_val(0)
      ->transform(also("-1", "0"))
      ->check(CLI::Range(0, 1024));
  add_device_flags(app, f);
  group(app.add_option("--cache-type-k", f.pair.context.type_k, "Type of the K cache: f32, f16, bf16, q8_0, q4_0"))
      ->capture_default_str();
  group(app.add_option("--cache-type-v", f.pair.context.type_v, "Type of the V cache"))->capture_default_str();
  const std::map<std::string, std::optional<bool>> mmap{{"auto", std::nullopt}, {"on", true}, {"off", false}};
  group(
      app.add_option_function<std::string>(
          "--mmap", [&f, mmap](const std::string& v) { f.pair.mmap = mmap.at(v); },
          "Map model files (on) or read them into memory, in huge pages (off); auto reads what takes at most a quarter "
          "of the free memory"))
      ->default_str("auto")
      ->check(CLI::IsMember({"auto", "on", "off"}));
  group(app.add_flag("--no-narrow", f.no_narrow, "Leave narrow matrix products on the CPU to ggml"));
}

void add_model_flags(CLI::App& app, ModelFlags& f) {
  add_target_flags(app, f);
  const auto group = [&](CLI::Option* o) { return o->group("Models"); };
  group(app.add_option_function<std::vector<std::string>>(
            "-d,--draft,--model-draft",
            [&f](const std::vector<std::string>& files) {
              f.pair.draft = files.front();
              f.pair.more_drafts.assign(files.begin() + 1, files.end());
            },
            "Draft model, EAGLE-3 or DFlash head (GGUF); given again for one of another kind, the planner chooses "
            "among them. "
            "Without it the target's own MTP layers draft where it has them, or only the history is drawn on"))
      ->allow_extra_args(false)
      ->type_name("FILE");
  group(app.add_flag("--with-mtp", f.pair.with_mtp, "Let the target's own MTP layers draft beside what --draft gives"));
  group(app.add_option_function<std::string>(
            "--draft-type", [&f](const std::string& v) { f.pair.draft_type = draft_types_by_name().at(v); },
            "What drafts: auto (what the files hold), model, mtp (layers of the target's file; model without --draft "
            "leaves them alone), eagle3, dflash"))
      ->default_str("auto")
      ->check(CLI::IsMember({"auto", "model", "mtp", "eagle3", "dflash"}));
  group(app.add_option("--lookup", f.pair.lookup, "A text file to draw continuations from; may be given twice"))
      ->type_name("FILE");
  group(app.add_flag("--exact", f.pair.engine.exact,
                     "Emit the same bits as plain decoding on a CPU, at some cost in speed"));
  group(app.add_flag("--no-profile", f.no_profile,
                     "Learn what passes cost while running, without measuring or the cache"));
}

namespace {

// Files separated by commas; `scaled`: each with ":SCALE" behind it.
std::vector<RuntimeOptions::Adapter> adapters(const std::string& list, bool scaled) {
  std::vector<RuntimeOptions::Adapter> out;
  for (const std::string& item : split(list, ',')) {
    if (!scaled) {
      out.push_back({item, 1});
      continue;
    }
    const std::size_t colon = item.rfind(':');
    float scale = 0;
    const char* const end = item.data() + item.size();
    if (colon == std::string::npos || std::from_chars(item.data() + colon + 1, end, scale).ptr != end ||
        colon + 1 == item.size())
      throw Error(ErrorCode::kUsage, "An adapter with a scale is given as FILE:SCALE, not '" + item + "'.");
    out.push_back({item.substr(0, colon), scale});
  }
  return out;
}

}  // namespace

void add_adapter_flags(CLI::App& app, ModelFlags& f) {
  const auto add = [&](const char* name, std::vector<RuntimeOptions::Adapter>& to, bool scaled, const char* help) {
    app.add_option_function<std::vector<std::string>>(
           name,
           [&to, scaled](const std::vector<std::string>& lists) {
             for (const std::string& list : lists)
               for (auto& a : adapters(list, scaled)) to.push_back(std::move(a));
           },
           help)
        ->expected(1)
        ->take_all()
        ->type_name(scaled ? "FILE:SCALE" : "FILE")
        ->group("Models");
  };
  add("--lora", f.pair.adapters, false, "LoRA adapter for the target; more separated by commas, or given again");
  add("--lora-scaled", f.pair.adapters, true, "The same, each with a scale");
  add("--lora-draft", f.pair.draft_adapters, false, "LoRA adapter for the draft model, likewise");
}

void add_mode_flag(CLI::App& app, ModelFlags& f) {
  visit_params(f.speculation, [&](const Param& param, auto& field) {
    if constexpr (std::same_as<decltype(field), Mode&>)
      app.add_option("--" + std::string(param.flag), f.mode, param.help)->group("Speculation")->capture_default_str();
  });
}

void add_speculation_flags(CLI::App& app, ModelFlags& f) {
  const auto group = [&](CLI::Option* o) { return o->group("Speculation")->capture_default_str(); };
  visit_params(f.speculation, [&](const Param& param, auto& field) {
    const std::string flag = "--" + std::string(param.flag);
    if (&field == static_cast<void*>(&f.speculation.max_width)) {
      group(app.add_option(flag, f.width, param.help));  // a number or auto
    } else if constexpr (std::same_as<decltype(field), int&> || std::same_as<decltype(field), float&>) {
      group(app.add_option(flag, field, param.help));
    }
  });
  app.add_flag("--no-history", f.no_history,
               "Do not draw on the prompt, the generated text and formerly drafted tokens")
      ->group("Speculation");
  group(app.add_option("--prefill-chunk", f.pair.engine.prefill_chunk, "Prompt tokens of one pass"))
      ->capture_default_str()
      ->check(CLI::Range(1, 512));
}

void add_draw_flags(CLI::App& app, ModelFlags& f) {
  SamplingParams& p = f.sampling;
  const auto group = [&](CLI::Option* o) { return o->group("Sampling")->capture_default_str(); };
  group(app.add_option("-n,--n-predict", f.n_predict, "Tokens to generate; -1 = until the context is full"))
      ->check(CLI::Range(std::int64_t{-1}, std::int64_t{1} << 40));
  const std::map<std::string, std::string> other{{"temperature", "--temp,"},
                                                 {"typical-p", "--typical,"},
                                                 {"top-n-sigma", "--top-nsigma,"},
                                                 {"dynatemp-exponent", "--dynatemp-exp,"}};
  visit_params(p, [&](const Param& param, auto& field) {
    const auto also = other.find(param.flag);
    group(app.add_option((also == other.end() ? "" : also->second) + "--" + param.flag, field, param.help));
  });
  app.add_option("--samplers", f.samplers,
                 "What changes the distribution, in this order, the names separated by semicolons; what is left out is "
                 "off (penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature)")
      ->group("Sampling");
  app.add_option("--sampler-seq,--sampling-seq", f.sampler_letters, "The same by letters (edskypmxt)")
      ->group("Sampling");
  group(app.add_option("-s,--seed", p.seed, "Seed: same seed, same text, whatever is drafted; -1 = draw one"))
      ->transform([&f](const std::string& text) {
        f.random_seed = text == "-1";
        return f.random_seed ? std::to_string(std::random_device()()) : text;
      });
}

void add_sampling_flags(CLI::App& app, ModelFlags& f) {
  add_draw_flags(app, f);
  app.add_option("--grammar", f.grammar, "GBNF grammar that the text must follow")->group("Sampling");
  app.add_option("--grammar-file", f.grammar_file, "The same from a file")->group("Sampling")->type_name("FILE");
  app.add_flag("--ignore-eos", f.ignore_eos, "Go on behind an end-of-text token")->group("Sampling");
}

namespace {

std::vector<Stage> stages(const std::string& names, const std::string& letters) {
  std::vector<Stage> out;
  std::istringstream list(names);
  for (std::string name; std::getline(list, name, ';');) out.push_back(parse_stage(name));
  for (const char& c : letters) out.push_back(parse_stage({&c, 1}));
  if (std::find(out.begin(), out.end(), Stage::kInfill) != out.end())
    throw Error(ErrorCode::kUsage, "The sampler 'infill' is for requests to /infill; name it there.");
  return out;
}

// Layers that were asked onto devices where there are none.
void note_idle_layers(const RuntimeOptions& options) {
  const bool asked = options.target_place.layers.value_or(0) != 0 || options.draft_place.layers.value_or(0) != 0;
  if (asked && devices().empty())
    fmt::print(stderr, "gsd: note: ggml finds no device beside the CPU; all layers stay there.\n");
}

}  // namespace

SessionOptions ModelFlags::session() const {
  SessionOptions o;
  o.speculation = speculation;
  o.speculation.mode = parse_mode(mode);
  o.speculation.history = !no_history;
  if (width != "auto") {
    char* end = nullptr;
    const long w = std::strtol(width.c_str(), &end, 10);
    if (end == width.c_str() || *end != '\0' || w == 0)
      throw Error(ErrorCode::kUsage, "The width must be a number from 1 to 64 or auto, not '" + width + "'.");
    o.speculation.max_width = static_cast<int>(std::clamp(w, -1L, 1000L));
  }
  o.sampling = sampling;
  if (!samplers.empty() || !sampler_letters.empty()) set_stages(o.sampling, stages(samplers, sampler_letters));
  o.max_tokens = n_predict;
  o.ignore_eog = ignore_eos;
  for (const auto& a : pair.adapters) o.adapters.push_back(a.scale);
  validate(o.speculation);
  validate(o.sampling);
  return o;
}

SessionOptions ModelFlags::session(const Runtime& loaded) const {
  SessionOptions o = session();
  if (o.sampling.dry())
    o.sampling.dry_breakers = make_dry_breakers(vocabulary(loaded.target()), default_dry_breakers());
  if (grammar_file.empty() && grammar.empty()) return o;
  const std::string text = grammar_file.empty() ? grammar : read_file(grammar_file);
  o.constraint = make_grammar(loaded.target(), text).constraint();
  return o;
}

Runtime load_pair(const ModelFlags& flags, bool cancel_passes) {
  RuntimeOptions options = flags.pair;
  options.profile = !flags.no_profile;
  options.narrow = !flags.no_narrow;
  if (cancel_passes) options.context.cancelled = interrupted;
  Runtime pair = [&] {
    ProgressLine line("Loading");
    options.progress = [&](float share) {
      line.show(share);
      return !interrupted();
    };
    return Runtime(options);
  }();
  if (pair.draft_types().empty() && flags.no_history && flags.mode != "plain" && flags.mode != "auto")
    throw Error(ErrorCode::kUsage, "The mode " + flags.mode + " needs a draft model (--draft) or the history.");
  note_idle_layers(flags.pair);
  std::vector<const Model*> drafts = pair.drafts();
  for (const Model* draft : drafts)
    if (draft->n_params() > pair.target().n_params())
      fmt::print(stderr, "gsd: note: the draft '{}' is larger than the target '{}': is the one in the other's place?\n",
                 draft->description(), flags.pair.target);
  if (const std::string note = pair.vocabulary_note(); !note.empty()) fmt::print(stderr, "gsd: note: {}.\n", note);
  if (drafts.empty()) drafts.push_back(nullptr);
  std::string warning;
  for (const Model* draft : drafts)
    if (warning.empty()) warning = context_warning(pair.target(), draft, pair.n_ctx());
  if (!warning.empty()) fmt::print(stderr, "gsd: note: {}.\n", warning);
  const std::string idle = pair.idle_layers();
  if (pair.draft_types().empty() && !idle.empty()) fmt::print(stderr, "gsd: note: {}.\n", idle);
  const std::string obstacles =
      options.engine.exact ? width_obstacles(pair.target(), !pair.narrow().empty()) : std::string();
  if (!obstacles.empty())
    fmt::print(stderr,
               "gsd: note: --exact cannot promise plain decoding's bits for this model: {} round differently at "
               "different widths.\n",
               obstacles);
  return pair;
}

}  // namespace gsd::app
