/* Settings of the backend for narrow products and attention (libggml-gsd.so), for the program that loads it. Plain C.
 *
 * The functions are not linked against but asked for by name, once the backend is loaded:
 *
 *   ggml_backend_reg_t reg = ggml_backend_load("…/libggml-gsd.so");
 *   gsd_narrow_configure_t configure =
 *       (gsd_narrow_configure_t) ggml_backend_reg_get_proc_address(reg, GSD_NARROW_CONFIGURE);
 *
 * Settings belong to the process. They decide which products the backend takes when ggml plans a graph, so change them
 * before creating a llama_context; a context keeps reusing graphs that it planned before. Any thread may call these
 * functions at any time. */
#ifndef GSD_NARROW_H
#define GSD_NARROW_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GSD_NARROW_CONFIGURE "gsd_narrow_configure"
#define GSD_NARROW_GET_PARAMS "gsd_narrow_get_params"
#define GSD_NARROW_GET_STATS "gsd_narrow_get_stats"

struct gsd_narrow_params {
  uint32_t size;            /* sizeof(struct gsd_narrow_params), set by the caller */
  int32_t enabled;          /* 0: take nothing. Environment: GSD_NARROW */
  int32_t exact;            /* 1: take every product of max_width columns or fewer, width 1 and small matrices too, so
                             * that the bits of a column do not depend on the batch. Environment: GSD_NARROW_EXACT */
  int32_t min_width;        /* fewest columns taken; 0: from where this backend is faster, by format, which is 1 or 2.
                             * Ignored if exact. GSD_NARROW_MIN_WIDTH */
  int32_t max_width;        /* most columns taken, at least 1 and min_width. GSD_NARROW_MAX_WIDTH */
  int64_t min_matrix_bytes; /* smaller matrices are left to ggml, with one column those of less than four times this.
                             * Ignored if exact. GSD_NARROW_MIN_MATRIX_BYTES */
  int32_t huge_pages;       /* 1: on Linux, weights in memory of the process (not mapped from a file) are moved into huge
                             * pages when they are first multiplied. GSD_NARROW_HUGE_PAGES */
  int32_t attention;        /* attention over the cache is taken for batches of this many tokens (of one sequence set) up
                             * to max_width; 0: left to ggml. Flash attention must be on; libllama's automatic choice
                             * takes it for unsupported if this is 1. If exact, not 0 means every number.
                             * GSD_NARROW_ATTENTION, 2 by default */
  int32_t rows;             /* 1: operations between products (additions, norms, gates, rotations, writing to the cache)
                             * are taken too where that saves handing over. GSD_NARROW_ROWS */
};

struct gsd_narrow_stats {
  uint32_t size;            /* sizeof(struct gsd_narrow_stats), set by the caller */
  uint32_t available;       /* 0: this machine has no instruction set that the backend knows */
  char instruction_set[32]; /* for example "avx512+vnni+bf16" */
  uint64_t products;        /* matrix products computed since the process started */
  uint64_t conversions;     /* of activations, for them; products of the same activations share one */
  uint64_t attentions;      /* attention operations computed */
  uint64_t attentions_declined; /* while exact: how often a scheduler was told that an attention operation of at most
                                 * max_width tokens is not supported, in any context. If making one raises it, its bits
                                 * depend on the batch unless flash attention is off */
  uint64_t row_operations;  /* operations between products that were computed */
};

/* All three return 0, or -1 if a pointer is null, size is not that of a known version, or a value is out of range;
 * nothing is changed then. */
typedef int (*gsd_narrow_configure_t)(const struct gsd_narrow_params* params);
typedef int (*gsd_narrow_get_params_t)(struct gsd_narrow_params* params);
typedef int (*gsd_narrow_get_stats_t)(struct gsd_narrow_stats* stats);

#ifdef __cplusplus
}
#endif

#endif
