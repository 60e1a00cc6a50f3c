// What a model may write from where a call begins: a grammar from the functions' schemas, and when it takes hold.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gsd/grammar.h"
#include "tool_format.h"

namespace gsd::chat {

struct FunctionRules {
  struct Parameter {
    std::string name;
    bool required = false;
    bool text = false;               // written without quotes between tags
    bool scalar = false;             // a number, true or false: every notation writes it as JSON does
    std::vector<std::string> texts;  // all that it may be, if it is one of these
    std::string value;               // rule of its JSON value
  };
  std::string name;
  std::string arguments;  // rule of the JSON object
  std::vector<Parameter> parameters;
};

struct CallGrammarOptions {
  std::string
      rules;  // GBNF of the rules that the functions name; `root` and names with call-, until-, gemma- are taken
  std::string answer = {};      // the rule of an answer without calls, from the start; empty: there must be calls
  bool parallel = true;         // more than one call
  bool from_start = false;      // the whole answer, with the reasoning before; otherwise from the begin of the call on
  bool reasoning_open = false;  // the prompt has opened it
  bool reasoning_closed = false;  // and closed it: none comes
};
// GBNF. `functions`: at least one, or an answer.
std::string call_grammar(const ToolFormat& format, const std::vector<FunctionRules>& functions,
                         const CallGrammarOptions& options);

// The texts of a vocabulary in which a call's markers can be read, with 256 tokens more, one for each byte, so that a
// grammar can take in a part of a token.
std::shared_ptr<const TokenTexts> call_texts(int n_vocab, const std::function<std::string(Token)>& piece,
                                             const std::function<bool(Token)>& is_end);

// Allows everything until the text begins a call as `format` writes it, outside of reasoning; from there on what
// `grammar` (over call_texts) allows. A token that begins a call and goes on otherwise is not allowed.
Constraint lazy_constraint(const ToolFormat& format, const Grammar& grammar, std::shared_ptr<const TokenTexts> texts,
                           bool reasoning_open);

}  // namespace gsd::chat
