#include <algorithm>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "zoo.h"

namespace gsd::zoo {
namespace {

using Metadata = std::vector<std::pair<std::string, std::string>>;

// The lines of the file, continued ones joined, without comments.
std::vector<std::string> lines_of(const std::filesystem::path& file) {
  std::ifstream in(file);
  if (!in) throw std::runtime_error("cannot open " + file.string());
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    if (line[0] == ' ' && !lines.empty()) {
      lines.back() += line;
    } else {
      lines.push_back(line);
    }
  }
  return lines;
}

std::string trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(' ');
  return first == text.npos ? "" : std::string(text.substr(first, text.find_last_not_of(' ') + 1 - first));
}

Metadata parse_metadata(const std::string& text, const std::map<std::string, Metadata>& sets) {
  Metadata out;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const auto equals = word.find('=');
    if (word[0] == '+') {
      const Metadata& set = sets.at(word);
      out.insert(out.end(), set.begin(), set.end());
    } else if (equals != word.npos) {
      out.emplace_back(word.substr(0, equals), word.substr(equals + 1));
    } else {
      throw std::runtime_error("'" + word + "' is no metadata");
    }
  }
  return out;
}

}  // namespace

const Entry& Table::entry(const std::string& name) const {
  const auto it = std::find_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.name == name; });
  if (it == entries.end()) throw std::runtime_error("the zoo has no model '" + name + "'");
  return *it;
}

Table read_table(const std::filesystem::path& file) {
  Table table;
  std::map<std::string, Metadata> sets;
  for (const std::string& line : lines_of(file)) {
    const auto colon = line.find(':');
    if (colon == line.npos) {
      const auto mark = line.find(" ! ");
      if (mark == line.npos) throw std::runtime_error("no entry: " + line);
      table.left_out[line.substr(0, mark)] = trimmed(line.substr(mark + 3));
      continue;
    }
    std::string name = trimmed(line.substr(0, colon));
    const auto bar = std::min(line.find('|'), line.size());
    const std::string text = line.substr(colon + 1, bar - colon - 1);
    if (name[0] == '+') {
      sets[name] = parse_metadata(text, sets);
      continue;
    }
    Entry entry;
    const auto equals = name.find('=');
    entry.architecture = equals == name.npos ? name : trimmed(name.substr(equals + 1));
    entry.name = trimmed(name.substr(0, equals));
    entry.metadata = parse_metadata("+default " + text, sets);
    for (const auto& [key, value] : parse_metadata(line.substr(std::min(bar + 1, line.size())), {}))
      entry.weights[key] = std::stof(value);
    table.entries.push_back(std::move(entry));
  }
  return table;
}

}  // namespace gsd::zoo
