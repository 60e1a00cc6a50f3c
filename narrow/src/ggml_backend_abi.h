// The structs through which ggml reaches a backend that is loaded at run time.
//
// ggml declares them in ggml-backend-impl.h, a header of its source tree that distributions do not install. Where that
// header is found it is used. Otherwise this one declares what a device without buffers of its own needs, as laid out
// in version 3 of the interface (ggml 0.27). ggml refuses a backend of another version by its api_version, and
// backend.cpp checks ggml's own before it hands over any of these.
#pragma once

#if __has_include("ggml-backend-impl.h")
#include "ggml-backend-impl.h"
#else

#include <ggml-backend.h>

#define GGML_BACKEND_API_VERSION 3

extern "C" {

// An operation this backend leaves out; null in every table below.
using gsd_ggml_unused = void (*)();

struct ggml_backend_i {
  const char* (*get_name)(ggml_backend_t);
  void (*free)(ggml_backend_t);
  gsd_ggml_unused transfers[5];  // asynchronous set, get, 2d set, 2d get, copy
  gsd_ggml_unused synchronize;
  gsd_ggml_unused plans[4];
  enum ggml_status (*graph_compute)(ggml_backend_t, struct ggml_cgraph*);
  gsd_ggml_unused events[2];
  gsd_ggml_unused graph_optimize;
};

struct ggml_backend {
  ggml_guid_t guid;
  struct ggml_backend_i iface;
  ggml_backend_dev_t device;
  void* context;
};

struct ggml_backend_device_i {
  const char* (*get_name)(ggml_backend_dev_t);
  const char* (*get_description)(ggml_backend_dev_t);
  void (*get_memory)(ggml_backend_dev_t, size_t* free, size_t* total);
  enum ggml_backend_dev_type (*get_type)(ggml_backend_dev_t);
  void (*get_props)(ggml_backend_dev_t, struct ggml_backend_dev_props*);
  ggml_backend_t (*init_backend)(ggml_backend_dev_t, const char* params);
  ggml_backend_buffer_type_t (*get_buffer_type)(ggml_backend_dev_t);
  ggml_backend_buffer_type_t (*get_host_buffer_type)(ggml_backend_dev_t);
  ggml_backend_buffer_t (*buffer_from_host_ptr)(ggml_backend_dev_t, void* data, size_t size, size_t max_tensor_size);
  bool (*supports_op)(ggml_backend_dev_t, const struct ggml_tensor* op);
  bool (*supports_buft)(ggml_backend_dev_t, ggml_backend_buffer_type_t);
  bool (*offload_op)(ggml_backend_dev_t, const struct ggml_tensor* op);
  gsd_ggml_unused events[3];
};

struct ggml_backend_device {
  struct ggml_backend_device_i iface;
  ggml_backend_reg_t reg;
  void* context;
};

struct ggml_backend_reg_i {
  const char* (*get_name)(ggml_backend_reg_t);
  size_t (*get_device_count)(ggml_backend_reg_t);
  ggml_backend_dev_t (*get_device)(ggml_backend_reg_t, size_t index);
  void* (*get_proc_address)(ggml_backend_reg_t, const char* name);
};

struct ggml_backend_reg {
  int api_version;
  struct ggml_backend_reg_i iface;
  void* context;
};

}  // extern "C"

#endif
