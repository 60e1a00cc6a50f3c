// For ajv_test.mjs. Reads {"schema", "texts"} a line from standard input and writes a line for each:
// {"refused": "why"}, or {"samples": random texts of its grammar, "accepted": for each of "texts"}.
//   schema_tool SEED SAMPLES
#include <iostream>

#include "../../src/server/api_error.h"
#include "../../src/server/json_schema.h"
#include "gsd/error.h"
#include "walk.h"

int main(int argc, char** argv) {
  using gsd::server::Json;
  if (argc != 3) return 2;
  std::mt19937_64 rng(std::stoull(argv[1]));
  const int n_samples = std::stoi(argv[2]);
  const auto vocabulary = gsd::test::bytes();
  for (std::string line; std::getline(std::cin, line);) {
    const Json in = Json::parse(line);
    Json out;
    try {
      const gsd::Grammar grammar(gsd::server::schema_grammar(in["schema"]), vocabulary);
      out["samples"] = Json::array();
      for (int i = 0; i < n_samples; ++i) {
        std::string dead;
        if (const auto text = gsd::test::walk(grammar, rng, dead)) {
          out["samples"].push_back(*text);
        } else if (!dead.empty()) {
          out["dead"] = dead;
        }
      }
      out["accepted"] = Json::array();
      for (const Json& text : in["texts"])
        out["accepted"].push_back(gsd::test::accepts(grammar, text.get<std::string>()));
    } catch (const gsd::server::ApiError& e) {
      out = {{"refused", e.what()}};
    } catch (const gsd::Error& e) {
      out = {{"broken", e.what()}};
    }
    std::cout << out.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
  }
}
