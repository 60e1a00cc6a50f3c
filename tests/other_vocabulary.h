// Files of the same model with another vocabulary, made of a bundled draft.
#pragma once

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace gsd::test {

enum class Revocabulary {
  kPermute,  // the same tokens with other ids
  kFiner,    // half of the merges are gone, and the tokens that they make
  kSpm,      // SentencePiece in the place of byte-level BPE, with the tokens of whole characters
};

// A token of byte-level BPE as bytes: printable characters stand for themselves, the others for code points from 256
// on.
inline std::string bytes_of(std::string_view text) {
  static const std::map<std::uint32_t, char> others = [] {
    std::map<std::uint32_t, char> out;
    for (int c = 0, next = 256; c < 256; ++c)
      if (c < 33 || (c > 126 && c < 161) || c == 173) out[static_cast<std::uint32_t>(next++)] = static_cast<char>(c);
    return out;
  }();
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    std::uint32_t point = c;
    std::size_t n = 1;
    if (c >= 0xC0) {
      point = (c & 0x1FU) << 6 | (static_cast<unsigned char>(text[i + 1]) & 0x3FU);
      n = 2;
    }
    const auto other = others.find(point);
    out += other == others.end() ? static_cast<char>(point) : other->second;
    i += n;
  }
  return out;
}

inline bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const std::size_t n = c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
    if (n == 0 || i + n > text.size()) return false;
    for (std::size_t k = 1; k < n; ++k)
      if ((static_cast<unsigned char>(text[i + k]) & 0xC0) != 0x80) return false;
    i += n;
  }
  return true;
}

// A vocabulary: old[i] is the id that token i has in the file that it is made of.
struct NewVocabulary {
  std::vector<std::string> text;
  std::vector<std::int32_t> type;
  std::vector<float> score;
  std::vector<std::size_t> old;
  std::vector<std::string> merges;
};

class VocabularyEditor {
 public:
  explicit VocabularyEditor(const std::string& path) {
    in_ = gguf_init_from_file(path.c_str(), {.no_alloc = false, .ctx = &tensors_});
    if (in_ == nullptr) throw std::runtime_error("cannot read " + path);
    const auto tokens = key("tokenizer.ggml.tokens");
    const auto* types = static_cast<const std::int32_t*>(gguf_get_arr_data(in_, key("tokenizer.ggml.token_type")));
    for (std::size_t i = 0; i < gguf_get_arr_n(in_, tokens); ++i) {
      now_.text.emplace_back(gguf_get_arr_str(in_, tokens, i));
      now_.type.push_back(types[i]);
      now_.old.push_back(i);
    }
    const auto merges = key("tokenizer.ggml.merges");
    for (std::size_t i = 0; i < gguf_get_arr_n(in_, merges); ++i)
      now_.merges.emplace_back(gguf_get_arr_str(in_, merges, i));
  }
  ~VocabularyEditor() {
    gguf_free(in_);
    ggml_free(tensors_);
  }
  VocabularyEditor(const VocabularyEditor&) = delete;
  VocabularyEditor& operator=(const VocabularyEditor&) = delete;

  void edit(Revocabulary how) {
    if (how == Revocabulary::kPermute) permute();
    if (how == Revocabulary::kFiner) make_finer();
    if (how == Revocabulary::kSpm) make_spm();
  }

  void write(const std::string& path) {
    gguf_context* out = gguf_init_empty();
    gguf_set_kv(out, in_);
    std::vector<const char*> text, merges;
    for (const std::string& t : now_.text) text.push_back(t.c_str());
    for (const std::string& m : now_.merges) merges.push_back(m.c_str());
    gguf_set_arr_str(out, "tokenizer.ggml.tokens", text.data(), text.size());
    gguf_set_arr_data(out, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, now_.type.data(), now_.type.size());
    if (now_.score.empty()) {
      gguf_set_arr_str(out, "tokenizer.ggml.merges", merges.data(), merges.size());
    } else {
      gguf_set_val_str(out, "tokenizer.ggml.model", "llama");
      gguf_remove_key(out, "tokenizer.ggml.pre");
      gguf_remove_key(out, "tokenizer.ggml.merges");
      gguf_set_arr_data(out, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, now_.score.data(), now_.score.size());
      gguf_set_val_bool(out, "tokenizer.ggml.add_space_prefix", true);
    }
    for (const char* id : {"bos", "eos", "unknown", "padding", "eot"}) {
      const std::string name = std::string("tokenizer.ggml.") + id + "_token_id";
      const auto at = gguf_find_key(in_, name.c_str());
      if (at < 0) continue;
      const auto place = std::find(now_.old.begin(), now_.old.end(), gguf_get_val_u32(in_, at));
      gguf_set_val_u32(out, name.c_str(), static_cast<std::uint32_t>(place - now_.old.begin()));
    }
    for (std::int64_t i = 0; i < gguf_get_n_tensors(in_); ++i) {
      ggml_tensor* t = ggml_get_tensor(tensors_, gguf_get_tensor_name(in_, i));
      if (std::string_view(t->name) == "token_embd.weight" || std::string_view(t->name) == "output.weight")
        move_rows(*t);
      gguf_add_tensor(out, t);
    }
    const bool written = gguf_write_to_file(out, path.c_str(), false);
    gguf_free(out);
    if (!written) throw std::runtime_error("cannot write " + path);
  }

 private:
  std::int64_t key(const char* name) const {
    const auto at = gguf_find_key(in_, name);
    if (at < 0) throw std::runtime_error(std::string("the file has no ") + name);
    return at;
  }
  void reorder(const std::vector<std::size_t>& order) {
    NewVocabulary next;
    for (const std::size_t i : order) {
      next.text.push_back(now_.text[i]);
      next.type.push_back(now_.type[i]);
      next.old.push_back(now_.old[i]);
    }
    next.merges = now_.merges;
    now_ = next;
  }
  void permute() {
    std::vector<std::size_t> order(now_.text.size());
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(7));
    reorder(order);
  }
  // Tokens that later merges need stay where they are made by earlier ones.
  void make_finer() {
    std::mt19937 rng(7);
    std::map<std::string, std::size_t> ids;
    for (std::size_t i = 0; i < now_.text.size(); ++i) ids[now_.text[i]] = i;
    std::vector<std::string> kept;
    std::vector<bool> gone(now_.text.size());
    for (const std::string& merge : now_.merges) {
      const auto space = merge.find(' ', 1);
      const std::string left = merge.substr(0, space);
      const std::string right = merge.substr(space + 1);
      const std::size_t made = ids.at(left + right);
      if (gone[ids.at(left)] || gone[ids.at(right)] || rng() % 4 == 0) {
        gone[made] = true;
      } else {
        kept.push_back(merge);
      }
    }
    now_.merges = kept;
    for (std::size_t i = 0; i < gone.size(); ++i) {
      if (!gone[i]) continue;
      now_.text[i] = "<gone " + std::to_string(i) + ">";
      now_.type[i] = 3;  // control
    }
    permute();
  }
  void make_spm() {
    NewVocabulary next;
    const auto add = [&](std::string text, std::int32_t type, float score, std::size_t old) {
      next.text.push_back(std::move(text));
      next.type.push_back(type);
      next.score.push_back(score);
      next.old.push_back(old);
    };
    std::map<std::string, std::size_t> by_bytes;
    for (std::size_t i = 0; i < now_.text.size(); ++i) by_bytes.emplace(bytes_of(now_.text[i]), i);
    add("<unk>", 2, 0, 1);
    add(now_.text[0], 3, 0, 0);  // begins and ends a text
    for (int c = 0; c < 256; ++c) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(c));
      const auto old = by_bytes.find(std::string(1, static_cast<char>(c)));
      add(name, 6, 0, old == by_bytes.end() ? 1 : old->second);
    }
    for (std::size_t i = 1; i < now_.text.size() && next.text.size() < now_.text.size(); ++i) {
      const std::string bytes = bytes_of(now_.text[i]);
      if (!is_utf8(bytes)) continue;
      std::string text;
      for (const char c : bytes) text += c == ' ' ? "\u2581" : std::string(1, c);
      add(text, 1, -static_cast<float>(i), i);
    }
    while (next.text.size() < now_.text.size()) add("<pad " + std::to_string(next.text.size()) + ">", 3, 0, 1);
    now_ = next;
  }
  void move_rows(ggml_tensor& t) const {
    const std::size_t row = ggml_row_size(t.type, t.ne[0]);
    auto* data = static_cast<char*>(t.data);
    const std::vector<char> before(data, data + ggml_nbytes(&t));
    for (std::size_t i = 0; i < now_.old.size(); ++i)
      std::memcpy(data + i * row, before.data() + now_.old[i] * row, row);
  }

  ggml_context* tensors_ = nullptr;
  gguf_context* in_ = nullptr;
  NewVocabulary now_;
};

inline void write_revocabulary(const std::string& in, const std::string& out, Revocabulary how) {
  VocabularyEditor editor(in);
  editor.edit(how);
  editor.write(out);
}

}  // namespace gsd::test
