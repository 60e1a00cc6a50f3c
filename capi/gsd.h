/* libgsd from C, and from every language that can call C: a pair of models, sessions that are stepped, text and tokens
 * that are taken out. Plain C99; nothing calls back. examples/generate.c is a whole program.
 *
 * Handles (gsd_options, gsd_pair, gsd_session) are no addresses. Every function says GSD_USAGE to one that is NULL, closed
 * or of another kind, and to calls in an order that makes no sense: nothing is undefined but pointers to memory that is not
 * there. Whoever makes a handle closes it, in any order: a pair goes when it and all its sessions are closed.
 *
 * Threads: any thread may call any function. Calls on one pair and its sessions wait for each other, all but gsd_cancel(),
 * so that more threads make no pair faster; two pairs work at the same time. No function is for signal handlers. */
#ifndef GSD_H
#define GSD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a program that was compiled with an older header would go wrong. Further functions, flags and statistics do
 * not raise it. */
#define GSD_ABI 1

typedef struct gsd_options gsd_options;
typedef struct gsd_pair gsd_pair;
typedef struct gsd_session gsd_session;
typedef int32_t gsd_token; /* id in the target's vocabulary */

/* What a function returns; the exit codes of the program gsd are the same. */
typedef int gsd_code;
enum {
  GSD_OK = 0,
  GSD_INTERNAL = 1,          /* a bug of ours */
  GSD_USAGE = 2,             /* an argument or an order of calls that makes no sense */
  GSD_MODEL_FILE = 3,        /* missing, unreadable, truncated or no GGUF model */
  GSD_MODEL_UNSUPPORTED = 4, /* a model that cannot generate text or cannot be used this way */
  GSD_PAIR_MISMATCH = 5,     /* draft and target do not fit together */
  GSD_CONTEXT_FULL = 6,      /* the prompt does not fit the context */
  GSD_OUT_OF_MEMORY = 7,
  GSD_NO_KV_SLOT = 8, /* the cache has no room for this pass; nothing was changed */
  GSD_BACKEND = 9,    /* a pass failed; the sessions keep their text and can be stepped again */
  GSD_GRAMMAR = 10,   /* a grammar that does not parse */
  GSD_IO = 11         /* a file could not be read or written */
};

/* One sentence on the last call of this thread that returned another code than GSD_OK: what happened and what to do. ""
 * before. Valid until the thread's next such call. */
const char* gsd_error(void);

/* Version of the library, such as "0.1.0". */
const char* gsd_version(void);

/* --- options ------------------------------------------------------------------------------------------------------ */

/* A set of flags, all at their defaults. `abi`: GSD_ABI; another one is refused with GSD_USAGE. */
gsd_code gsd_options_new(int abi, gsd_options** options);
void gsd_options_close(gsd_options* options);

/* Sets a flag. Names and values are those of the command line (docs/guide.md), without dashes in front:
 *   of a pair     model draft draft-type lookup ctx-size threads gpu-layers gpu-layers-draft device device-draft split-mode
 *                 tensor-split main-gpu cache-type-k cache-type-v mmap narrow profile exact parallel keep-prefixes prefill-chunk
 *   of a session  n-predict ignore-eos stop grammar seed logits trace, and those of speculation (mode, width, depth, ...,
 *                 history) and of sampling (temperature, top-k, ...)
 * A switch is "true" or "false". `stop` and `lookup` may be set several times and add up. `parallel`: sessions of the pair
 * that are open at once, 1 by default. `logits`: keep the last step's, see gsd_logits(). `trace`: keep what
 * the steps proposed, see gsd_take_trace(). Nothing is printed. */
gsd_code gsd_set(gsd_options* options, const char* flag, const char* value);

/* --- a pair ------------------------------------------------------------------------------------------------------- */

/* Loads the models, which may take a while. The options may be changed or closed afterwards. */
gsd_code gsd_open(const gsd_options* options, gsd_pair** pair);
void gsd_close(gsd_pair* pair); /* keeps what was learned about the machine, as the program does */

/* Tokens of the vocabulary, positions of a session; 0 if `pair` is none. */
int32_t gsd_n_vocab(const gsd_pair* pair);
int32_t gsd_n_ctx(const gsd_pair* pair);

enum {
  GSD_ADD_BEGIN = 1,    /* the model's own begin of text in front, where it has one */
  GSD_PARSE_CONTROL = 2 /* names of control tokens become these tokens: never for text of strangers */
};
/* `text` [length bytes] as tokens. Writes at most `capacity` of them and their number to `n`, which may be larger: then
 * call again with room for all. */
gsd_code gsd_tokenize(gsd_pair* pair, const char* text, size_t length, int flags, gsd_token* tokens, size_t capacity,
                      size_t* n);
/* The bytes of one token, which may be a part of a character; `n` as above. */
gsd_code gsd_piece(gsd_pair* pair, gsd_token token, char* bytes, size_t capacity, size_t* n);

/* --- a session: one text ------------------------------------------------------------------------------------------ */

/* `options`: only flags of a session count; NULL = those that the pair was opened with. GSD_USAGE if as many sessions are
 * open as `parallel` allows. */
gsd_code gsd_session_open(gsd_pair* pair, const gsd_options* options, gsd_session** session);
void gsd_session_close(gsd_session* session);

/* Replaces the session's text and begins anew; the memory of a common beginning is kept. Text is taken as it is: names of
 * control tokens are text. After a failure the session is what it was. */
gsd_code gsd_prompt(gsd_session* session, const char* text, size_t length);
gsd_code gsd_prompt_tokens(gsd_session* session, const gsd_token* tokens, size_t n);

/* Works for `n` sessions of one pair together; those that are finished are passed over. One that has not taken in all of
 * its prompt takes in a piece of it, one session a call; the others get at least one token each or finish. Call it until
 * all are finished. After a failure the sessions keep their text, and it may be called again. */
gsd_code gsd_step(gsd_session* const* sessions, size_t n);
/* Tokens of the prompt that are still to be taken in. */
size_t gsd_prompt_left(const gsd_session* session);

/* 1 once no further step is needed, also of what is no session, so that loops end. */
int gsd_finished(const gsd_session* session);
/* "none" while it goes on, "end_of_text", "length", "context_full", "stopped", "constraint", "cancelled"; "" of what is no
 * session. The text is static. */
const char* gsd_finish_reason(const gsd_session* session);
/* Ends the session, with the step in progress where another thread makes one, and does not wait for that. */
gsd_code gsd_cancel(gsd_session* session);

/* Moves what was generated and not yet taken to `text`: whole UTF-8 characters, at most `capacity` bytes (4 or more), no 0
 * at the end. `n`: the bytes written, 0 when there is nothing. What may become a stop string is held back until it cannot;
 * after a stop string nothing comes. */
gsd_code gsd_take_text(gsd_session* session, char* text, size_t capacity, size_t* n);
/* The same for tokens; those of a stop string and the end of text are among them. */
gsd_code gsd_take_tokens(gsd_session* session, gsd_token* tokens, size_t capacity, size_t* n);

/* The target's logits [gsd_n_vocab] from which the session's last step drew its token `i`, counted from 0 in that step;
 * GSD_USAGE without the flag `logits` or beyond the step's tokens. Valid until the session is stepped, prompted or closed. */
gsd_code gsd_logits(gsd_session* session, size_t i, const float** logits);
/* Tokens of the last step. */
size_t gsd_n_last(const gsd_session* session);

/* Moves what the steps since the prompt proposed and was not yet taken to `json`, at most `capacity` bytes, no 0 at the end;
 * `n`: the bytes written, 0 when there is nothing. A line of JSON for each step, as in the records of gsd generate
 * (docs/guide.md): "graph", "tree", "path", "emitted" and times. GSD_USAGE without the flag `trace`. */
gsd_code gsd_take_trace(gsd_session* session, char* json, size_t capacity, size_t* n);

/* Statistics by name: sums over all steps of the session. gsd_statistic_name(0), (1), ... names them, then comes NULL:
 * "steps", "emitted", "drafted", "accepted", "verify_ms" and so on. The texts are static. */
const char* gsd_statistic_name(size_t i);
gsd_code gsd_statistic(const gsd_session* session, const char* name, double* value);

#ifdef __cplusplus
}
#endif
#endif
