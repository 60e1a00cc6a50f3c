// A model without some of its layers, written from file to file. libllama's own way (llama_model_quantize with
// prune_layers) leaves metadata and tensors that have an entry for each layer as they were.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string_view>

#include "../util/atomic_file.h"
#include "gguf_file.h"
#include "handles.h"

namespace gsd {
namespace {

using Gguf = std::unique_ptr<gguf_context, void (*)(gguf_context*)>;
using Tensors = std::unique_ptr<ggml_context, void (*)(ggml_context*)>;

std::size_t element_size(gguf_type type) {
  switch (type) {
    case GGUF_TYPE_UINT8:
    case GGUF_TYPE_INT8:
    case GGUF_TYPE_BOOL:
      return 1;
    case GGUF_TYPE_UINT16:
    case GGUF_TYPE_INT16:
      return 2;
    case GGUF_TYPE_UINT32:
    case GGUF_TYPE_INT32:
    case GGUF_TYPE_FLOAT32:
      return 4;
    case GGUF_TYPE_UINT64:
    case GGUF_TYPE_INT64:
    case GGUF_TYPE_FLOAT64:
      return 8;
    default:
      return 0;
  }
}

// "blk.12.attn_q.weight" -> 12 and ".attn_q.weight"; -1 for other names.
std::pair<int, std::string_view> layer_of(std::string_view name) {
  if (!name.starts_with("blk.")) return {-1, name};
  name.remove_prefix(4);
  int layer = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  return {error == std::errc() ? layer : -1, name.substr(static_cast<std::size_t>(end - name.data()))};
}

class Pruning {
 public:
  Pruning(const std::string& path, std::span<const int> keep) : keep_(keep.begin(), keep.end()) {
    for (const std::string& part : model_parts(path)) parts_.push_back(open(part));
    const GgufFile first = GgufFile::open(path).value();
    prefix_ = first.architecture() + ".";
    blocks_ = first.number(prefix_ + "block_count").value_or(0);
    copy_metadata(first);
    for (std::size_t i = 0; i < parts_.size(); ++i) copy_tensors(i);
  }

  // False if the file could not be written in full.
  bool write(const std::string& path) {
    if (!gguf_write_to_file(out_.get(), path.c_str(), true)) return false;
    std::ofstream file(path, std::ios::binary | std::ios::app);
    for (const Piece& piece : pieces_) write_tensor(file, piece);
    file.close();
    return file.good();
  }

 private:
  struct Part {
    Gguf file;
    Tensors tensors;
    std::string path;
  };
  struct Piece {
    const Part* part;
    std::int64_t id;           // of the tensor in its part
    const ggml_tensor* shape;  // in the new file
    std::int64_t per_layer;    // 0, or elements of a row that belong to one layer
  };

  static Part open(const std::string& path) {
    ggml_context* tensors = nullptr;
    Gguf file(gguf_init_from_file(path.c_str(), {.no_alloc = true, .ctx = &tensors}), gguf_free);
    if (!file) throw Error(ErrorCode::kModelFile, "The model file '" + path + "' cannot be read.");
    return {std::move(file), Tensors(tensors, ggml_free), path};
  }

  void copy_metadata(const GgufFile& first) {
    const gguf_context* in = parts_.front().file.get();
    gguf_set_kv(out_.get(), in);
    for (const char* key : {"split.no", "split.count", "split.tensors.count"}) gguf_remove_key(out_.get(), key);
    for (std::int64_t i = 0; i < gguf_get_n_kv(in); ++i) {
      const std::string key = gguf_get_key(in, i);
      // Arrays whose length is that of other things.
      const bool other = key.ends_with("rope.dimension_sections") || key.find(".ple.") != key.npos ||
                         key.ends_with("deepstack_mapping") || key.starts_with("tokenizer.");
      if (!other && gguf_get_kv_type(in, i) == GGUF_TYPE_ARRAY && gguf_get_arr_n(in, i) == blocks_) thin(in, i);
    }
    const auto set = [&](const char* name, std::uint64_t value) {
      if (first.real(prefix_ + name))
        gguf_set_val_u32(out_.get(), (prefix_ + name).c_str(), static_cast<std::uint32_t>(value));
    };
    const auto kept_from = [&](double layer) {
      return static_cast<std::uint64_t>(std::count_if(keep_.begin(), keep_.end(), [&](int k) { return k >= layer; }));
    };
    set("block_count", keep_.size());
    set("nextn_predict_layers", 0);
    const double dense = first.real(prefix_ + "leading_dense_block_count").value_or(0);
    set("leading_dense_block_count", keep_.size() - kept_from(dense));
    const double shared = first.real(prefix_ + "attention.shared_kv_layers").value_or(0);  // the last ones
    set("attention.shared_kv_layers", kept_from(static_cast<double>(blocks_) - shared));
  }

  // Keeps the kept layers' elements of an array with one for each layer.
  void thin(const gguf_context* in, std::int64_t id) {
    const gguf_type type = gguf_get_arr_type(in, id);
    const std::size_t size = element_size(type);
    if (size == 0) return;  // texts
    const auto* data = static_cast<const char*>(gguf_get_arr_data(in, id));
    std::vector<char> kept;
    for (const int layer : keep_) kept.insert(kept.end(), data + layer * size, data + (layer + 1) * size);
    gguf_set_arr_data(out_.get(), gguf_get_key(in, id), type, kept.data(), keep_.size());
  }

  void copy_tensors(std::size_t index) {
    const Part& part = parts_[index];
    const auto n = gguf_get_n_tensors(part.file.get());
    memory_.emplace_back(ggml_init({.mem_size = static_cast<std::size_t>(n + 1) * ggml_tensor_overhead(),
                                    .mem_buffer = nullptr,
                                    .no_alloc = true}),
                         ggml_free);
    for (std::int64_t id = 0; id < n; ++id) {
      std::string name = gguf_get_tensor_name(part.file.get(), id);
      const ggml_tensor* t = ggml_get_tensor(part.tensors.get(), name.c_str());
      std::array<std::int64_t, GGML_MAX_DIMS> shape{t->ne[0], t->ne[1], t->ne[2], t->ne[3]};
      std::int64_t per_layer = 0;
      if (const auto [layer, rest] = layer_of(name); layer >= 0) {
        const auto at = std::find(keep_.begin(), keep_.end(), layer);
        if (at == keep_.end()) continue;
        name = "blk." + std::to_string(at - keep_.begin()) + std::string(rest);
      } else if (name == "per_layer_token_embd.weight") {
        per_layer = thinned(shape[0]);
      } else if (name == "per_layer_model_proj.weight") {  // a layer has rows of its own
        per_layer = thinned(shape[1]) * t->ne[0];
      }
      if (per_layer % ggml_blck_size(t->type) != 0)
        throw Error(ErrorCode::kModelUnsupported,
                    "The layers' parts of '" + name + "' cannot be separated in its format.");
      ggml_tensor* shaped = ggml_new_tensor(memory_.back().get(), t->type, GGML_MAX_DIMS, shape.data());
      ggml_set_name(shaped, name.c_str());
      gguf_add_tensor(out_.get(), shaped);
      pieces_.push_back({&part, id, shaped, per_layer});
    }
  }

  // Shrinks the dimension to the kept layers and returns one layer's share.
  std::int64_t thinned(std::int64_t& dimension) const {
    const std::int64_t share = dimension / static_cast<std::int64_t>(blocks_);
    dimension = share * static_cast<std::int64_t>(keep_.size());
    return share;
  }

  void write_tensor(std::ofstream& to, const Piece& piece) const {
    std::ifstream from(piece.part->path, std::ios::binary);
    from.seekg(static_cast<std::streamoff>(gguf_get_data_offset(piece.part->file.get()) +
                                           gguf_get_tensor_offset(piece.part->file.get(), piece.id)));
    std::vector<char> buffer;
    const auto copy = [&](std::size_t bytes) {
      for (std::size_t left = bytes; left > 0; left -= buffer.size()) {
        buffer.resize(std::min<std::size_t>(left, 1 << 22));
        if (!from.read(buffer.data(), static_cast<std::streamsize>(buffer.size()))) to.setstate(std::ios::badbit);
        to.write(buffer.data(), static_cast<std::streamsize>(buffer.size()));
      }
    };
    if (piece.per_layer == 0) {
      copy(ggml_nbytes(piece.shape));
    } else {
      const std::size_t share = ggml_row_size(piece.shape->type, piece.per_layer);
      const std::int64_t whole = gguf_get_tensor_size(piece.part->file.get(), piece.id);
      for (std::int64_t row = whole / static_cast<std::int64_t>(share * blocks_); row > 0; --row) {
        for (std::uint64_t layer = 0; layer < blocks_; ++layer) {
          if (std::find(keep_.begin(), keep_.end(), static_cast<int>(layer)) != keep_.end()) {
            copy(share);
          } else {
            from.seekg(static_cast<std::streamoff>(share), std::ios::cur);
          }
        }
      }
    }
    const std::size_t alignment = gguf_get_alignment(out_.get());
    const std::size_t size = ggml_nbytes(piece.shape);
    to << std::string((alignment - size % alignment) % alignment, '\0');
  }

  std::vector<int> keep_;
  std::string prefix_;
  std::uint64_t blocks_ = 0;
  std::vector<Part> parts_;
  Gguf out_{gguf_init_empty(), gguf_free};
  std::vector<Tensors> memory_;
  std::vector<Piece> pieces_;
};

}  // namespace

void write_pruned(const Model& model, std::span<const int> keep, const std::string& path) {
  const bool ascending = std::adjacent_find(keep.begin(), keep.end(), std::greater_equal<int>()) == keep.end();
  if (keep.empty() || !ascending || keep.front() < 0 || keep.back() >= model.n_layers()) {
    throw Error(ErrorCode::kUsage, "The layers to keep must be ascending numbers from 0 to " +
                                       std::to_string(model.n_layers() - 1) + ", at least one.");
  }
  AtomicFile out(path, "model");
  if (!Pruning(model.path(), keep).write(out.scratch())) {
    throw Error(ErrorCode::kIo,
                "The model '" + path + "' cannot be written; check the folder, its permissions and the free space.");
  }
  out.commit();
}

}  // namespace gsd
