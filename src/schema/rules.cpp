#include "rules.h"

#include <fmt/format.h>

#include <algorithm>

namespace gsd::schema {

Piece text(std::string gbnf) { return {.kind = Piece::kText, .text = std::move(gbnf)}; }
Piece call(std::uint32_t rule) { return {.kind = Piece::kRule, .rule = rule}; }
Piece sequence(std::vector<Piece> parts) { return {.kind = Piece::kSequence, .parts = std::move(parts)}; }
Piece choice(std::vector<Piece> parts) {
  if (parts.size() == 1) return std::move(parts[0]);
  return {.kind = Piece::kChoice, .parts = std::move(parts)};
}
Piece repeat(Piece part, std::int64_t least, std::int64_t most) {
  Piece out{.kind = Piece::kRepeat, .least = least, .most = most};
  out.parts.push_back(std::move(part));
  return out;
}

std::string literal(std::string_view utf8) {
  std::string out = "\"";
  for (const char c : utf8) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') out += '\\';
    byte < ' ' || byte == 0x7F ? out += fmt::format("\\x{:02X}", byte) : out += c;
  }
  out += '"';
  return out;
}

std::uint32_t Rules::add(Piece body) {
  constexpr std::size_t kMostRules = 60'000;
  if (bodies_.size() >= kMostRules) refuse("it needs more than 60000 rules", "#");
  bodies_.push_back(std::move(body));
  return static_cast<std::uint32_t>(bodies_.size() - 1);
}

namespace {

std::string character(std::uint32_t c) {
  if (c < 0x80) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return plain ? std::string(1, static_cast<char>(c)) : fmt::format("\\x{:02X}", c);
  }
  return c < 0x10000 ? fmt::format("\\u{:04X}", c) : fmt::format("\\U{:08X}", c);
}

std::string class_of(const Ranges& ranges) {
  std::string out = "[";
  for (const auto& [low, high] : ranges) {
    out += character(low);
    if (high > low) out.append("-").append(character(high));
  }
  out += ']';
  return out;
}

// How the characters of `ranges` are written within a JSON string.
Piece in_json(const Ranges& ranges) {
  Ranges plain;
  std::vector<Piece> out{{}};
  for (const auto& [low, high] : ranges) {
    std::uint32_t from = low;
    for (std::uint32_t c = low; c <= high && c <= '\\'; ++c) {
      if (c >= ' ' && c != '"' && c != '\\') continue;
      if (c > from) plain.emplace_back(from, c - 1);
      from = c + 1;
      constexpr std::string_view kChars = "\b\f\n\r\t\"\\";
      constexpr std::string_view kNames = "bfnrt\"\\";
      const std::size_t i = kChars.find(static_cast<char>(c));
      out.push_back(text(i != std::string_view::npos ? literal(fmt::format("\\{}", kNames[i]))
                                                     : literal(fmt::format("\\u00{:02x}", c))));
    }
    if (from <= high) plain.emplace_back(from, high);
  }
  if (plain.empty()) {
    out.erase(out.begin());
  } else {
    out[0] = text(class_of(plain));
  }
  return choice(std::move(out));
}

}  // namespace

std::uint32_t Rules::add(const Dfa& dfa, bool in_string) {
  std::uint32_t first = 0;
  for (std::size_t s = 0; s < dfa.states.size(); ++s) {
    const std::uint32_t rule = add();
    if (s == 0) first = rule;
  }
  for (std::size_t s = 0; s < dfa.states.size(); ++s) {
    std::vector<Piece> alternatives;
    for (const auto& [ranges, to] : dfa.states[s].edges) {
      work_.spend(1 + ranges.size());
      alternatives.push_back(sequence({in_string ? in_json(ranges) : text(class_of(ranges)), call(first + to)}));
    }
    if (dfa.states[s].accept) alternatives.push_back({});
    set(first + static_cast<std::uint32_t>(s), choice(std::move(alternatives)));
  }
  return first;
}

bool Rules::has_text(const Piece& p) {
  work_.spend();
  const auto has = [this](const Piece& part) { return has_text(part); };
  switch (p.kind) {
    case Piece::kText:
      return true;
    case Piece::kRule:
      return has_text_[p.rule];
    case Piece::kSequence:
      return std::all_of(p.parts.begin(), p.parts.end(), has);
    case Piece::kChoice:
      return std::any_of(p.parts.begin(), p.parts.end(), has);
    case Piece::kRepeat:
      break;
  }
  return p.least == 0 || (p.most != 0 && has_text(p.parts[0]));
}

// Rounds until nothing changes, later rules first: most rules call later ones.
void Rules::find_texts() {
  has_text_.assign(bodies_.size(), false);
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t r = bodies_.size(); r-- > 0;) {
      if (has_text_[r] || !has_text(bodies_[r])) continue;
      has_text_[r] = true;
      changed = true;
    }
  }
}

void Rules::append(std::string& out, const Piece& p, bool grouped) {
  constexpr std::size_t kMostText = 1 << 20;  // what a grammar may be
  if (out.size() > kMostText) refuse("it needs a grammar of more than 1 MiB", "#");
  switch (p.kind) {
    case Piece::kText:
      out += p.text;
      return;
    case Piece::kRule:
      if (names_[p.rule] == 0) {
        todo_.push_back(p.rule);
        names_[p.rule] = static_cast<std::uint32_t>(todo_.size());
      }
      out += fmt::format("{}-{}", prefix_, names_[p.rule]);
      return;
    case Piece::kRepeat:
      if (p.most == 0 || !has_text(p.parts[0])) {
        out += "\"\"";
        return;
      }
      out += "( ";
      append(out, p.parts[0], true);
      out += p.most < 0 ? fmt::format(" ){{{},}}", p.least) : fmt::format(" ){{{},{}}}", p.least, p.most);
      return;
    case Piece::kSequence:
      if (p.parts.empty()) out += "\"\"";
      for (std::size_t i = 0; i < p.parts.size(); ++i) {
        if (i > 0) out += ' ';
        append(out, p.parts[i], false);
      }
      return;
    case Piece::kChoice:
      break;
  }
  if (!grouped) out += "( ";
  bool first = true;
  for (const Piece& part : p.parts) {
    if (!has_text(part)) continue;
    if (!first) out += " | ";
    first = false;
    append(out, part, true);
  }
  if (!grouped) out += " )";
}

std::string Rules::write(std::uint32_t start, const std::string& name) {
  find_texts();
  if (!has_text_[start]) return "";
  prefix_ = name;
  names_.assign(bodies_.size(), 0);
  todo_.clear();
  std::string out = name + " ::= ";
  append(out, bodies_[start], true);
  out += '\n';
  for (std::size_t i = 0; i < todo_.size(); ++i) {
    out += fmt::format("{}-{} ::= ", name, i + 1);
    append(out, bodies_[todo_[i]], true);
    out += '\n';
  }
  return out;
}

}  // namespace gsd::schema
