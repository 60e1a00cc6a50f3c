#include "ggml_devices.h"

#include <cstring>

namespace gsd::narrow::test {

const Devices& devices() {
  static const Devices loaded = [] {
    if (std::strlen(GSD_BACKENDS_DIR) > 0) {
      ggml_backend_load_all_from_path(GSD_BACKENDS_DIR);
    } else {
      ggml_backend_load_all();
    }
    Devices d;
    d.cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    d.reg = ggml_backend_load(GSD_NARROW_PLUGIN);
    if (d.reg != nullptr && ggml_backend_reg_dev_count(d.reg) > 0) d.gsd = ggml_backend_reg_dev_get(d.reg, 0);
    return d;
  }();
  return loaded;
}

ggml_context_ptr make_context() {
  return ggml_context_ptr(
      ggml_init({ggml_tensor_overhead() * 256 + ggml_graph_overhead(), nullptr, /*no_alloc=*/true}));
}

}  // namespace gsd::narrow::test
