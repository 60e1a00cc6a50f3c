// Random grammars, written out as GBNF and held as data for models that follow them in another way.
#pragma once

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace gsd::test {

// x{least,most} of one of several characters, or of a rule.
struct Part {
  std::string chars;  // any of them, or
  int rule = -1;
  int least = 1;
  int most = 1;  // -1: any number
};
using Alternatives = std::vector<std::vector<Part>>;  // of one rule; rule 0 is root

inline std::string to_gbnf(const std::vector<Alternatives>& rules) {
  std::string out;
  const auto write_name = [&](std::size_t r) {
    r == 0 ? out.append("root") : out.append("r").append(std::to_string(r));
  };
  const auto write = [&](const Part& p) {
    out += ' ';
    if (p.rule >= 0) {
      write_name(static_cast<std::size_t>(p.rule));
    } else {
      out.append(p.chars.size() == 1 ? "\"" : "[").append(p.chars).append(p.chars.size() == 1 ? "\"" : "]");
    }
    if (p.least == 1 && p.most == 1) return;
    out.append("{").append(std::to_string(p.least)).append(",");
    if (p.most >= 0) out.append(std::to_string(p.most));
    out += '}';
  };
  for (std::size_t r = 0; r < rules.size(); ++r) {
    write_name(r);
    out += " ::=";
    for (std::size_t a = 0; a < rules[r].size(); ++a) {
      if (a > 0) out += " |";
      if (rules[r][a].empty()) out += " \"\"";
      for (const Part& p : rules[r][a]) write(p);
    }
    out += "\n";
  }
  return out;
}

// Over the characters of `alphabet`. A rule calls itself or an earlier one only after a character: no left recursion.
inline std::vector<Alternatives> random_rules(std::mt19937_64& rng, const std::string& alphabet) {
  std::vector<Alternatives> rules(1 + rng() % 5);
  for (std::size_t r = 0; r < rules.size(); ++r) {
    for (std::size_t a = 1 + rng() % 3; a > 0; --a) {
      std::vector<Part> parts;
      for (std::size_t n = rng() % 4; n > 0; --n) {
        Part p;
        const bool guarded = !parts.empty() && parts[0].rule < 0 && parts[0].least > 0;
        const std::size_t lowest = guarded ? 0 : r + 1;
        if (rng() % 2 == 0 && lowest < rules.size()) {
          p.rule = static_cast<int>(lowest + rng() % (rules.size() - lowest));
        } else {
          std::copy_if(alphabet.begin(), alphabet.end(), std::back_inserter(p.chars),
                       [&](char) { return rng() % 2 == 0; });
          if (p.chars.empty()) p.chars.push_back(alphabet[0]);
        }
        if (rng() % 3 == 0) {
          p.least = static_cast<int>(rng() % 3);
          p.most = rng() % 2 == 0 ? -1 : p.least + static_cast<int>(rng() % 3);
        }
        parts.push_back(p);
      }
      rules[r].push_back(std::move(parts));
    }
  }
  return rules;
}

}  // namespace gsd::test
