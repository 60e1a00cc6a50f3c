#include "llama_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "gsd/error.h"

namespace gsd::app {
namespace {

std::vector<std::string> words(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> out;
  for (std::string word; in >> word;) out.push_back(word);
  return out;
}

// One table for people to read: names, words that follow, neutral values, variable of the environment.
struct Row {
  const char* names;
  int values = 0;
  const char* neutral = "";
  const char* variable = "";
};
struct Group {
  bool noted;
  const char* why;
  std::vector<Row> rows;
};

std::vector<Group> groups() {
  return {
      {true,
       "threads follow the free cores by themselves",
       {{"-tb --threads-batch", 1},
        {"-td --threads-draft --spec-draft-threads", 1},
        {"-tbd --threads-batch-draft --spec-draft-threads-batch", 1},
        {"-C --cpu-mask", 1},
        {"-Cr --cpu-range", 1},
        {"--cpu-strict", 1},
        {"--prio", 1},
        {"--poll", 1},
        {"-Cb --cpu-mask-batch", 1},
        {"-Crb --cpu-range-batch", 1},
        {"--cpu-strict-batch", 1},
        {"--prio-batch", 1},
        {"--poll-batch", 1},
        {"-Cd --cpu-mask-draft --spec-draft-cpu-mask", 1},
        {"-Crd --cpu-range-draft --spec-draft-cpu-range", 1},
        {"--cpu-strict-draft --spec-draft-cpu-strict", 1},
        {"--prio-draft --spec-draft-prio", 1},
        {"--poll-draft --spec-draft-poll", 1},
        {"-Cbd --cpu-mask-batch-draft --spec-draft-cpu-mask-batch", 1},
        {"--cpu-strict-batch-draft --spec-draft-cpu-strict-batch", 1},
        {"--prio-batch-draft --spec-draft-prio-batch", 1},
        {"--poll-batch-draft --spec-draft-poll-batch", 1},
        {"--threads-http", 1, "", "LLAMA_ARG_THREADS_HTTP"}}},
      {true,
       "gsd chooses how passes and memory are laid out",
       {{"-b --batch-size", 1, "", "LLAMA_ARG_BATCH"},
        {"-ub --ubatch-size", 1, "", "LLAMA_ARG_UBATCH"},
        {"--swa-full", 0, "", "LLAMA_ARG_SWA_FULL"},
        {"-fa --flash-attn", 1, "", "LLAMA_ARG_FLASH_ATTN"},
        {"-kvo --kv-offload -nkvo --no-kv-offload", 0, "", "LLAMA_ARG_KV_OFFLOAD"},
        {"--repack -nr --no-repack", 0, "", "LLAMA_ARG_REPACK"},
        {"--no-host", 0, "", "LLAMA_ARG_NO_HOST"},
        {"-dt --defrag-thold", 1, "", "LLAMA_ARG_DEFRAG_THOLD"},
        {"-lm --load-mode", 1, "", "LLAMA_ARG_LOAD_MODE"},
        {"-lzm --lazy-mode", 1, "", "LLAMA_ARG_LAZY_MODE"},
        {"--numa", 1, "", "LLAMA_ARG_NUMA"},
        {"-fit --fit", 1, "", "LLAMA_ARG_FIT"},
        {"-fitt --fit-target", 1, "", "LLAMA_ARG_FIT_TARGET"},
        {"-fitc --fit-ctx", 1, "", "LLAMA_ARG_FIT_CTX"},
        {"--check-tensors"},
        {"--op-offload --no-op-offload"},
        {"--moe-cache-mib", 1, "", "LLAMA_ARG_MOE_CACHE_MIB"},
        {"-ctkd --cache-type-k-draft --spec-draft-type-k", 1, "", "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K"},
        {"-ctvd --cache-type-v-draft --spec-draft-type-v", 1, "", "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V"},
        {"--spec-draft-n-ubatch", 1, "", "LLAMA_ARG_SPEC_DRAFT_N_UBATCH"},
        {"-kvu --kv-unified -no-kvu --no-kv-unified", 0, "", "LLAMA_ARG_KV_UNIFIED"},
        {"-ctxcp --ctx-checkpoints --swa-checkpoints", 1, "", "LLAMA_ARG_CTX_CHECKPOINTS"},
        {"-cms --checkpoint-min-step", 1, "", "LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT"},
        {"-cb --cont-batching -nocb --no-cont-batching", 0, "", "LLAMA_ARG_CONT_BATCHING"},
        {"-bs --backend-sampling", 0, "", "LLAMA_ARG_BACKEND_SAMPLING"},
        {"--warmup --no-warmup"}}},
      {true,
       "the planner decides in every step what is drafted",
       {{"--spec-type", 1, "", "LLAMA_ARG_SPEC_TYPE"},
        {"--spec-default"},
        {"--spec-draft-n-max", 1, "", "LLAMA_ARG_SPEC_DRAFT_N_MAX"},
        {"--spec-draft-n-min", 1, "", "LLAMA_ARG_SPEC_DRAFT_N_MIN"},
        {"--draft-n --draft-max", 1, "", "LLAMA_ARG_DRAFT_MAX"},
        {"--draft-min --draft-n-min", 1, "", "LLAMA_ARG_DRAFT_MIN"},
        {"--spec-draft-p-split --draft-p-split", 1, "", "LLAMA_ARG_SPEC_DRAFT_P_SPLIT"},
        {"--spec-draft-p-min --draft-p-min", 1, "", "LLAMA_ARG_SPEC_DRAFT_P_MIN"},
        {"--spec-draft-backend-sampling --no-spec-draft-backend-sampling", 0, "",
         "LLAMA_ARG_SPEC_DRAFT_BACKEND_SAMPLING"},
        {"--spec-draft-sampling", 1, "", "LLAMA_ARG_SPEC_DRAFT_SAMPLING"},
        {"--spec-ngram-mod-n-min", 1},
        {"--spec-ngram-mod-n-max", 1},
        {"--spec-ngram-mod-n-match", 1},
        {"--spec-ngram-simple-size-n", 1},
        {"--spec-ngram-simple-size-m", 1},
        {"--spec-ngram-simple-min-hits", 1},
        {"--spec-ngram-map-k-size-n", 1},
        {"--spec-ngram-map-k-size-m", 1},
        {"--spec-ngram-map-k-min-hits", 1},
        {"--spec-ngram-map-k4v-size-n", 1},
        {"--spec-ngram-map-k4v-size-m", 1},
        {"--spec-ngram-map-k4v-min-hits", 1},
        {"--spec-ngram-size-n", 1},
        {"--spec-ngram-size-m", 1},
        {"--spec-ngram-min-hits", 1}}},
      {true,
       "slots keep their prompts in the context; a request turns that off with cache_prompt",
       {{"--keep", 1},
        {"--cache-idle-slots --no-cache-idle-slots", 0, "", "LLAMA_ARG_CACHE_IDLE_SLOTS"},
        {"--cache-prompt --no-cache-prompt", 0, "", "LLAMA_ARG_CACHE_PROMPT"},
        {"--cache-reuse", 1, "", "LLAMA_ARG_CACHE_REUSE"},
        {"-sps --slot-prompt-similarity", 1},
        {"--sleep-idle-seconds", 1}}},
      {true,
       "gsd writes what went wrong to stderr and nothing else",
       {{"--perf --no-perf", 0, "", "LLAMA_ARG_PERF"},
        {"--log-disable"},
        {"--log-colors", 1, "", "LLAMA_ARG_LOG_COLORS"},
        {"-v --verbose --log-verbose"},
        {"-lv --verbosity --log-verbosity", 1, "", "LLAMA_ARG_LOG_VERBOSITY"},
        {"--log-prefix --no-log-prefix", 0, "", "LLAMA_ARG_LOG_PREFIX"},
        {"--log-timestamps --no-log-timestamps", 0, "", "LLAMA_ARG_LOG_TIMESTAMPS"}}},
      {true,
       "it is always so",
       {{"--offline", 0, "", "LLAMA_ARG_OFFLINE"},
        {"--metrics", 0, "", "LLAMA_ARG_ENDPOINT_METRICS"},
        {"--slots", 0, "", "LLAMA_ARG_ENDPOINT_SLOTS"},
        {"--ui --webui", 0, "", "LLAMA_ARG_UI"},
        {"--no-context-shift"},
        {"--jinja", 0, "", "LLAMA_ARG_JINJA"},
        {"--no-mmproj --no-mmproj-auto"},
        {"--no-agent -no-ag"},
        {"--no-models-autoload"},
        {"--no-ui-mcp-proxy --no-webui-mcp-proxy"},
        {"--no-log-jsonl"},
        {"--no-skip-chat-parsing"},
        {"--prefill-assistant", 0, "", "LLAMA_ARG_PREFILL_ASSISTANT"},
        {"--tags", 1, "", "LLAMA_ARG_TAGS"},
        {"--sse-ping-interval", 1, "", "LLAMA_ARG_SSE_PING_INTERVAL"},
        {"-hft --hf-token", 1}}},
      {true,
       "gsd reads no images, sound or video",
       {{"--mmproj-auto", 0, "", "LLAMA_ARG_MMPROJ_AUTO"},
        {"--mmproj-offload --no-mmproj-offload", 0, "", "LLAMA_ARG_MMPROJ_OFFLOAD"},
        {"-mmdev --mmproj-device", 1},
        {"--image-min-tokens", 1, "", "LLAMA_ARG_IMAGE_MIN_TOKENS"},
        {"--image-max-tokens", 1, "", "LLAMA_ARG_IMAGE_MAX_TOKENS"},
        {"--mtmd-batch-max-tokens", 1, "", "LLAMA_ARG_MTMD_BATCH_MAX_TOKENS"},
        {"--video-fps", 1, "", "LLAMA_ARG_VIDEO_FPS"},
        {"--video-timestamp-interval", 1, "", "LLAMA_ARG_VIDEO_TIMESTAMP_INTERVAL"},
        {"--video-ffmpeg-dir", 1, "", "LLAMA_ARG_VIDEO_FFMPEG_DIR"}}},
      {false,
       "gsd reads no images, sound or video",
       {{"-mm --mmproj", 1, "", "LLAMA_ARG_MMPROJ"},
        {"-mmu --mmproj-url", 1, "", "LLAMA_ARG_MMPROJ_URL"},
        {"--media-path", 1}}},
      {false,
       "gsd downloads nothing; give the file with --model",
       {{"-mu --model-url", 1, "", "LLAMA_ARG_MODEL_URL"},
        {"-dr --docker-repo", 1, "", "LLAMA_ARG_DOCKER_REPO"},
        {"-hf -hfr --hf-repo", 1, "", "LLAMA_ARG_HF_REPO"},
        {"-hff --hf-file", 1, "", "LLAMA_ARG_HF_FILE"},
        {"-hfd -hfrd --hf-repo-draft --spec-draft-hf", 1, "", "LLAMA_ARG_SPEC_DRAFT_HF_REPO"},
        {"-cl --cache-list"},
        {"--embd-gemma-default"},
        {"--fim-qwen-1.5b-default"},
        {"--fim-qwen-3b-default"},
        {"--fim-qwen-7b-default"},
        {"--fim-qwen-7b-spec"},
        {"--fim-qwen-14b-spec"},
        {"--fim-qwen-30b-default"},
        {"--gpt-oss-20b-default"},
        {"--gpt-oss-120b-default"},
        {"--vision-gemma-4b-default"},
        {"--vision-gemma-12b-default"}}},
      {false,
       "positions are scaled as the model's file says",
       {{"--rope-scaling", 1, "", "LLAMA_ARG_ROPE_SCALING_TYPE"},
        {"--rope-scale", 1, "", "LLAMA_ARG_ROPE_SCALE"},
        {"--rope-freq-base", 1, "0", "LLAMA_ARG_ROPE_FREQ_BASE"},
        {"--rope-freq-scale", 1, "0", "LLAMA_ARG_ROPE_FREQ_SCALE"},
        {"--yarn-orig-ctx", 1, "0", "LLAMA_ARG_YARN_ORIG_CTX"},
        {"--yarn-ext-factor", 1, "-1 -1.0", "LLAMA_ARG_YARN_EXT_FACTOR"},
        {"--yarn-attn-factor", 1, "-1 -1.0", "LLAMA_ARG_YARN_ATTN_FACTOR"},
        {"--yarn-beta-slow", 1, "-1 -1.0", "LLAMA_ARG_YARN_BETA_SLOW"},
        {"--yarn-beta-fast", 1, "-1 -1.0", "LLAMA_ARG_YARN_BETA_FAST"}}},
      {false,
       "the model is used as its file is",
       {{"--override-kv", 1},
        {"--control-vector", 1},
        {"--control-vector-scaled", 1},
        {"--control-vector-layer-range", 2}}},
      {false,
       "whole layers go to devices: see --device and --gpu-layers",
       {{"-ot --override-tensor", 1, "", "LLAMA_ARG_OVERRIDE_TENSOR"},
        {"-otd --override-tensor-draft --spec-draft-override-tensor", 1},
        {"-cmoe --cpu-moe", 0, "", "LLAMA_ARG_CPU_MOE"},
        {"-ncmoe --n-cpu-moe", 1, "0", "LLAMA_ARG_N_CPU_MOE"},
        {"-ncffn --n-cpu-ffn", 1, "0", "LLAMA_ARG_N_CPU_FFN"},
        {"-cmoed --cpu-moe-draft --spec-draft-cpu-moe", 0, "", "LLAMA_ARG_SPEC_DRAFT_CPU_MOE"},
        {"-ncmoed --n-cpu-moe-draft --spec-draft-n-cpu-moe --spec-draft-ncmoe", 1, "0",
         "LLAMA_ARG_SPEC_DRAFT_N_CPU_MOE"}}},
      {false,
       "gsd draws in another way",
       {{"--adaptive-target", 1, "-1 -1.0"},
        {"--adaptive-decay", 1, "0.9"},
        {"--mirostat", 1, "0"},
        {"--mirostat-lr", 1, "0.1"},
        {"--mirostat-ent", 1, "5 5.0"},
        {"--spec-synth-len", 1, "", "LLAMA_ARG_SPEC_SYNTH_LEN"},
        {"--spec-synth-rates", 1, "", "LLAMA_ARG_SPEC_SYNTH_RATES"}}},
      {false,
       "give it in the request",
       {{"-l --logit-bias", 1},
        {"--dry-sequence-breaker", 1},
        {"-j --json-schema", 1},
        {"-jf --json-schema-file", 1},
        {"--ignore-eos"},
        {"-r --reverse-prompt", 1},
        {"--grammar", 1},
        {"--grammar-file", 1}}},
      {false,
       "gsd's server does not do that",
       {{"--context-shift", 0, "", "LLAMA_ARG_CONTEXT_SHIFT"},
        {"--kv-unified-per-slot", 1, "", "LLAMA_ARG_KV_UNIFIED_PER_SLOT"},
        {"-lcs --lookup-cache-static", 1},
        {"-lcd --lookup-cache-dynamic", 1},
        {"-sp --special"},
        {"-e --escape --no-escape"},
        {"--spm-infill"},
        {"--pooling", 1, "", "LLAMA_ARG_POOLING"},
        {"--embd-normalize", 1, "2"},
        {"--embedding --embeddings", 0, "", "LLAMA_ARG_EMBEDDINGS"},
        {"--rerank --reranking", 0, "", "LLAMA_ARG_RERANKING"},
        {"--reuse-port", 0, "", "LLAMA_ARG_REUSE_PORT"},
        {"--path", 1, "", "LLAMA_ARG_STATIC_PATH"},
        {"--cors-origins", 1, "", "LLAMA_ARG_CORS_ORIGINS"},
        {"--cors-methods", 1, "", "LLAMA_ARG_CORS_METHODS"},
        {"--cors-headers", 1, "", "LLAMA_ARG_CORS_HEADERS"},
        {"--cors-credentials --no-cors-credentials", 0, "", "LLAMA_ARG_CORS_CREDENTIALS"},
        {"--api-prefix", 1, "", "LLAMA_ARG_API_PREFIX"},
        {"--ui-config --webui-config", 1, "", "LLAMA_ARG_UI_CONFIG"},
        {"--ui-config-file --webui-config-file", 1, "", "LLAMA_ARG_UI_CONFIG_FILE"},
        {"--ui-mcp-proxy --webui-mcp-proxy", 0, "", "LLAMA_ARG_UI_MCP_PROXY"},
        {"--tools", 1, "", "LLAMA_ARG_TOOLS"},
        {"--tools-runtime", 1, "none", "LLAMA_ARG_TOOLS_RUNTIME"},
        {"--mcp-servers-config", 1, "", "LLAMA_ARG_MCP_SERVERS_CONFIG"},
        {"--mcp-servers-json", 1, "", "LLAMA_ARG_MCP_SERVERS_JSON"},
        {"-ag --agent", 0, "", "LLAMA_ARG_AGENT"},
        {"--ssl-key-file", 1, "", "LLAMA_ARG_SSL_KEY_FILE"},
        {"--ssl-cert-file", 1, "", "LLAMA_ARG_SSL_CERT_FILE"},
        {"--props", 0, "", "LLAMA_ARG_ENDPOINT_PROPS"},
        {"--models-dir", 1, "", "LLAMA_ARG_MODELS_DIR"},
        {"--models-preset", 1, "", "LLAMA_ARG_MODELS_PRESET"},
        {"--models-max", 1, "", "LLAMA_ARG_MODELS_MAX"},
        {"--models-autoload", 0, "", "LLAMA_ARG_MODELS_AUTOLOAD"},
        {"--no-jinja"},
        {"-rea --reasoning", 1, "auto", "LLAMA_ARG_REASONING"},
        {"--reasoning-effort", 1, "default", "LLAMA_ARG_REASONING_EFFORT"},
        {"--reasoning-budget-message", 1, "", "LLAMA_ARG_THINK_BUDGET_MESSAGE"},
        {"--reasoning-preserve --no-reasoning-preserve", 0, "", "LLAMA_ARG_REASONING_PRESERVE"},
        {"--skip-chat-parsing", 0, "", "LLAMA_ARG_SKIP_CHAT_PARSING"},
        {"--no-prefill-assistant"},
        {"--log-file", 1, "", "LLAMA_ARG_LOG_FILE"},
        {"--log-jsonl", 0, "", "LLAMA_ARG_LOG_JSONL"},
        {"--log-prompts-dir", 1},
        {"--completion-bash"}}},
  };
}

std::vector<LlamaFlag> flags() {
  std::vector<LlamaFlag> out;
  for (const Group& g : groups()) {
    for (const Row& r : g.rows) out.push_back({words(r.names), r.variable, r.values, g.noted, words(r.neutral), g.why});
  }
  return out;
}

}  // namespace

const std::vector<LlamaFlag>& llama_flags() {
  static const std::vector<LlamaFlag> all = flags();
  return all;
}

const LlamaFlag* find_llama_flag(std::string_view name) {
  const auto& all = llama_flags();
  const auto at = std::find_if(all.begin(), all.end(), [&](const LlamaFlag& f) {
    return f.variable == name || std::find(f.names.begin(), f.names.end(), name) != f.names.end();
  });
  return at == all.end() ? nullptr : &*at;
}

void pass_over(const LlamaFlag& flag, const std::string& given_as, const std::string& value,
               std::vector<std::string>& notes) {
  if (flag.noted) {
    notes.push_back(fmt::format("{} has no effect here: {}", given_as, flag.why));
  } else if (std::find(flag.neutral.begin(), flag.neutral.end(), value) == flag.neutral.end()) {
    throw Error(ErrorCode::kUsage,
                fmt::format("llama-server's {} is not supported: {}.{}", given_as, flag.why,
                            flag.neutral.empty() ? "" : fmt::format(" The value {} is taken.", flag.neutral.front())));
  }
}

}  // namespace gsd::app
