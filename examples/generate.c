/* Continues a prompt through the C API: generate TARGET.gguf DRAFT.gguf PROMPT [FLAG=VALUE]...
 * Built by: cc generate.c -o generate $(pkg-config --cflags --libs gsd) */
#include <gsd.h>
#include <stdio.h>
#include <string.h>

static int failed(gsd_code code) {
  if (code != GSD_OK) fprintf(stderr, "generate: %s\n", gsd_error());
  return code;
}

int main(int argc, char** argv) {
  gsd_options* options;
  gsd_pair* pair;
  gsd_session* session;
  if (argc < 4) return fputs("usage: generate TARGET.gguf DRAFT.gguf PROMPT [FLAG=VALUE]...\n", stderr), GSD_USAGE;
  if (failed(gsd_options_new(GSD_ABI, &options))) return GSD_USAGE;
  if (failed(gsd_set(options, "model", argv[1])) || failed(gsd_set(options, "draft", argv[2]))) return GSD_USAGE;
  for (int i = 4; i < argc; ++i) {
    char* value = strchr(argv[i], '=');
    if (value != NULL) *value++ = '\0';
    if (failed(gsd_set(options, argv[i], value != NULL ? value : "true"))) return GSD_USAGE;
  }
  gsd_code code = gsd_open(options, &pair);
  if (code == GSD_OK) code = gsd_session_open(pair, NULL, &session);
  if (code == GSD_OK) code = gsd_prompt(session, argv[3], strlen(argv[3]));
  while (code == GSD_OK && !gsd_finished(session)) {
    char text[256];
    size_t n;
    code = gsd_step(&session, 1);
    while (gsd_take_text(session, text, sizeof text, &n) == GSD_OK && n > 0) fwrite(text, 1, n, stdout);
  }
  if (failed(code)) return code;
  double steps = 0;
  gsd_statistic(session, "steps", &steps);
  fprintf(stderr, "\n%.0f steps, ended: %s\n", steps, gsd_finish_reason(session));
  gsd_session_close(session);
  gsd_close(pair);
  return gsd_options_close(options), 0;
}
