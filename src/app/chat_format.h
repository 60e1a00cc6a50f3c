// The chat format that a model's file and the flags ask for.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "../chat/format.h"
#include "gsd/llama.h"

namespace gsd::app {

struct TemplateFlags {
  std::string text;       // Jinja, or one of libllama's names
  std::string file;       // Jinja
  std::string variables;  // a JSON object
};
void add_template_flags(CLI::App& app, TemplateFlags& flags, const std::string& group);

struct LoadedFormat {
  std::shared_ptr<const chat::ChatFormat> format;
  bool own = false;     // the model's, or one that was asked for: not a fallback
  std::string warning;  // for the user; empty if there is nothing to say
};
// The format asked for, the model's own, or ChatML where it has none. One that cannot be rendered is returned with the
// reason as its warning and in problem(). Throws Error(kIo) for a file that cannot be read, Error(kModelUnsupported)
// for a name that libllama does not know.
LoadedFormat load_format(const Model& model, const TemplateFlags& flags);

// `flags.variables`. Throws Error(kUsage) for what is no JSON object.
chat::Json template_variables(const TemplateFlags& flags);

}  // namespace gsd::app
