// What llama-server's own tests ask of a server, in our words, asked of gsd serve and, where it is installed, of
// llama-server. What is different on purpose says so, and that it is: the table of it in docs/server.md is written from here.
//   node peer_test.mjs GSD MODEL DRAFT LLAMA_SERVER|- DOCUMENT [--write]
// MODEL: with tokens to fill in, as made by peer_test.sh. Exit code 77: skipped.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";

const [gsd, model, draft, llama, document, write] = process.argv.slice(2);
const key = "a-key-of-this-test";
const prompt = "# tar\n\n> ";

function freePort() {
  return new Promise((resolve) => {
    const s = net.createServer().listen(0, "127.0.0.1", () => { const { port } = s.address(); s.close(() => resolve(port)); });
  });
}

// A server with -np 2 of 512 tokens each, whatever program it is.
async function start(program, flags) {
  const port = await freePort();
  const args = ["-m", model, "-c", "1024", "-np", "2", "-t", "1", "--port", String(port), "--alias", "toy", ...flags];
  const child = spawn(program, program === gsd ? ["serve", ...args] : [...args, "--slots", "--metrics"], { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr.on("data", (d) => (log += d));
  child.on("exit", (code) => (child.ended = `the server ended with ${code}: ${log}`));
  const url = `http://127.0.0.1:${port}`;
  for (;;) {
    if (child.ended) throw new Error(child.ended);
    const health = await fetch(`${url}/health`).catch(() => null);
    if (health?.ok) break;
    await new Promise((r) => setTimeout(r, 50));
  }
  const ask = async (method, path, body, headers = {}) => {
    const r = await fetch(url + path, { method, headers: { Connection: "close", ...headers }, body: body === undefined ? undefined : JSON.stringify(body) });
    const text = await r.text();
    let json = null;
    try { json = JSON.parse(text); } catch {}
    return { status: r.status, headers: r.headers, text, body: json };
  };
  const good = async (...a) => { const r = await ask(...a); assert.equal(r.status, 200, r.text); return r.body; };
  const stream = async (path, body) => {
    const r = await ask("POST", path, { ...body, stream: true });
    assert.equal(r.status, 200, r.text);
    return r.text.split("\n\n").filter((l) => l.startsWith("data: {")).map((l) => JSON.parse(l.slice(6)));
  };
  return { url, ask, good, stream, post: (path, body) => good("POST", path, body), get: (path) => good("GET", path), native: (body) => good("POST", "/completion", { prompt, temperature: 0, ...body }), stop: () => child.kill("SIGKILL") };
}

const checks = [];
// `different`: what gsd does in its place; then the check must fail for gsd.
const check = (what, run, different) => checks.push({ what, run, different });
const user = (content) => ({ messages: [{ role: "system", content: "Book" }, { role: "user", content }], max_tokens: 8, temperature: 0 });

// Basics
check("GET /health answers without a key", async (s) => assert.equal((await s.get("/health")).status, "ok"));
check("/props has model_path, total_slots, n_ctx of a slot, seed, chat_template, bos_token, eos_token", async (s) => {
  const p = await s.get("/props");
  assert.match(p.model_path, /\.gguf$/);
  assert.equal(p.total_slots, 2);
  assert.equal(p.default_generation_settings.n_ctx, 512);
  assert.equal(typeof p.default_generation_settings.params.seed, "number");
  assert.equal(typeof p.chat_template, "string");
  assert.equal(p.bos_token, "<|endoftext|>");
  assert.equal(p.eos_token, "<|endoftext|>");
});
check("/models lists the one model by its alias", async (s) => assert.deepEqual((await s.get("/models")).data.map((m) => m.id), ["toy"]));
check("/slots lists the slots and their context", async (s) => assert.deepEqual((await s.get("/slots")).map((x) => x.n_ctx), [512, 512]));
check("an unknown path is 404 with an error", async (s) => { const r = await s.ask("GET", "/nothing"); assert.equal(r.status, 404); assert.ok(r.body.error); });
check("embeddings and reranking are 501 where the server makes none", async (s) => {
  for (const path of ["/embedding", "/embeddings", "/v1/embeddings", "/reranking"]) assert.equal((await s.ask("POST", path, { input: "x", query: "x", documents: ["x"] })).status, 501, path);
});
check("/lora-adapters is an empty list", async (s) => assert.deepEqual(await s.get("/lora-adapters"), []));
check("saving a slot is 501 without a path for it", async (s) => assert.equal((await s.ask("POST", "/slots/0?action=save", { filename: "x" })).status, 501));
check("an error's code is its status", async (s) => assert.equal((await s.ask("POST", "/completion", { prompt: [] })).body.error.code, 400), "`code` is a word or null, as OpenAI's is; `type` the same");
check("/metrics begins its names with llamacpp:", async (s) => assert.match((await s.ask("GET", "/metrics")).text, /^llamacpp:prompt_tokens_total/m), "`gsd:`");

// Completions
check("a completion counts its tokens and ends at its limit", async (s) => {
  const a = await s.native({ n_predict: 8 });
  assert.equal(a.tokens_predicted, 8);
  assert.equal(a.timings.predicted_n, 8);
  assert.equal(a.truncated, false);
  assert.equal(a.stop_type, "limit");
  assert.equal(typeof a.has_new_line, "boolean");
  assert.deepEqual(a.tokens, []);
  assert.ok(a.content.length > 0);
  assert.equal(a.prompt, "<|endoftext|>" + prompt);
});
check("return_tokens gives the tokens of the text", async (s) => {
  const a = await s.native({ n_predict: 8, return_tokens: true });
  assert.equal(a.tokens.length, 8);
  assert.equal((await s.post("/detokenize", { tokens: a.tokens })).content, a.content);
});
check("a stream's chunks have tokens, its last one the settings, and the text is the same", async (s) => {
  const chunks = await s.stream("/completion", { prompt, n_predict: 12, temperature: 0 });
  const last = chunks.at(-1);
  assert.equal(last.stop, true);
  assert.equal(last.stop_type, "limit");
  assert.equal(last.generation_settings.n_predict, 12);
  for (const c of chunks.slice(0, -1)) { assert.equal(c.stop, false); assert.equal(c.tokens.length, 1); }
  assert.equal(chunks.map((c) => c.content).join(""), (await s.native({ n_predict: 12 })).content);
});
check("the same seed gives the same text, another one another", async (s) => {
  const text = async (seed) => (await s.native({ n_predict: 24, temperature: 1.5, seed, cache_prompt: false })).content;
  assert.equal(await text(42), await text(42));
  assert.equal(new Set([await text(1), await text(2), await text(3)]).size, 3);
});
check("a prompt beyond the context is 400", async (s) => {
  const r = await s.ask("POST", "/completion", { prompt: "word ".repeat(600) });
  assert.equal(r.status, 400);
  assert.ok(r.body.error);
});
check("its error has the type exceed_context_size_error", async (s) => assert.equal((await s.ask("POST", "/completion", { prompt: "word ".repeat(600) })).body.error.type, "exceed_context_size_error"), "`code` is `context_length_exceeded`, as OpenAI's");
check("a text up to the end of the context is truncated", async (s) => {
  const a = await s.native({ prompt: "a".repeat(20), ignore_eos: true });
  assert.equal(a.truncated, true);
  assert.equal(a.stop_type, "limit");
});
check("prompts of tokens, of both in a list, and lists of prompts", async (s) => {
  const { tokens } = await s.post("/tokenize", { content: prompt, add_special: true });
  const one = await s.native({ prompt: tokens, n_predict: 4 });
  const list = await s.native({ prompt: [tokens, prompt], n_predict: 4 });
  assert.equal(list.length, 2);
  assert.deepEqual(list.map((a) => a.content), [one.content, one.content]);
  assert.equal((await s.native({ prompt: [65, 66, "cd", 67], n_predict: 1 })).prompt, "abcdc");
});
check("response_fields chooses, also inside the settings", async (s) => assert.deepEqual(Object.keys(await s.native({ n_predict: 3, response_fields: ["content", "generation_settings/n_predict", "prompt"] })).sort(), ["content", "generation_settings/n_predict", "prompt"]));
check("n_probs gives so many alternatives with bytes and log-probabilities", async (s) => {
  const a = await s.native({ n_predict: 5, n_probs: 10 });
  assert.equal(a.completion_probabilities.length, 5);
  for (const t of a.completion_probabilities) {
    assert.ok(t.id > 0 && t.logprob <= 0 && Array.isArray(t.bytes) && typeof t.token === "string");
    assert.equal(t.top_logprobs.length, 10);
  }
  const chunks = await s.stream("/completion", { prompt, temperature: 0, n_predict: 5, n_probs: 10 });
  for (const c of chunks.slice(0, -1)) assert.equal(c.completion_probabilities.length, 1);
});
check("post_sampling_probs gives what was drawn from", async (s) => {
  const a = await s.native({ n_predict: 5, n_probs: 10, post_sampling_probs: true });
  for (const t of a.completion_probabilities) assert.ok(t.prob > 0 && t.top_probs.some((p) => p.prob === 1));
  const b = await s.native({ n_predict: 5, n_probs: 10, post_sampling_probs: true, temperature: 1, top_k: 4, top_p: 1, min_p: 0 });
  for (const t of b.completion_probabilities) assert.equal(t.top_probs.length, 4);
});
check("logit_bias takes numbers and texts, as pairs and as an object", async (s) => {
  const first = (await s.native({ n_predict: 1, return_tokens: true })).tokens[0];
  for (const bias of [[[first, -100]], { [first]: -100 }]) assert.notEqual((await s.native({ n_predict: 1, logit_bias: bias, return_tokens: true })).tokens[0], first);
  for (const bias of [[["tar", 100]], { tar: 100 }]) assert.match((await s.native({ n_predict: 2, logit_bias: bias })).content, /^(tar|t|ar|a|r)/);
});
check("return_progress counts the prompt up to its end", async (s) => {
  const chunks = await s.stream("/completion", { prompt: "k".repeat(200), n_predict: 2, return_progress: true, cache_prompt: false });
  const progress = chunks.filter((c) => c.prompt_progress).map((c) => c.prompt_progress);
  assert.ok(progress.length > 0);
  assert.equal(progress.at(-1).processed, progress.at(-1).total);
});
check("a stop text ends the text before it and is named", async (s) => {
  const a = await s.native({ n_predict: 60, ignore_eos: true });
  const stop = a.content.slice(12, 16);
  const b = await s.native({ n_predict: 60, ignore_eos: true, stop: [stop] });
  assert.equal(b.stop_type, "word");
  assert.equal(b.stopping_word, stop);
  assert.equal(b.content, a.content.slice(0, a.content.indexOf(stop)));
});
check("tokens of a text that a stop text ended hold those of the stop text", async (s) => {
  const a = await s.native({ n_predict: 40, ignore_eos: true, return_tokens: true });
  const stop = (await s.post("/detokenize", { tokens: [a.tokens[8]] })).content;
  const b = await s.native({ n_predict: 40, ignore_eos: true, return_tokens: true, stop: [stop] });
  assert.equal(b.tokens.length, b.tokens_predicted);
}, "those of the text");
check("n_predict 0 writes one token", async (s) => assert.equal((await s.native({ n_predict: 0 })).tokens_predicted, 1), "none");
check("several requests at once, more than slots", async (s) => {
  const all = await Promise.all([1, 2, 3, 4, 5, 6].map((seed) => s.native({ n_predict: 30, seed, temperature: 1 })));
  for (const a of all) assert.ok(a.content.length > 10);
});
check("samplers may be named in any order, by a text of letters, and left out", async (s) => {
  const settings = async (samplers) => (await s.native({ n_predict: 1, samplers })).generation_settings.samplers;
  assert.deepEqual(await settings(["top_k", "temperature"]), ["top_k", "temperature"]);
  assert.deepEqual(await settings("kte"), ["top_k", "temperature", "penalties"]);
});
check("a sampler's name that is not known is passed over", async (s) => s.native({ n_predict: 1, samplers: ["nothing", "top_k"] }), "400 by name");
check("mirostat 2 is done", async (s) => s.native({ n_predict: 2, mirostat: 2, temperature: 1 }), "400 by name");
check("a cancelled request leaves its slot", async (s) => {
  const signal = AbortSignal.timeout(100);
  await fetch(`${s.url}/completion`, { method: "POST", signal, body: JSON.stringify({ prompt, n_predict: -1, ignore_eos: true }) }).then((r) => r.text()).catch(() => {});
  for (let i = 0; i < 100; ++i) {
    if ((await s.get("/slots")).every((x) => !x.is_processing)) return;
    await new Promise((r) => setTimeout(r, 50));
  }
  assert.fail("a slot is still busy");
});

// OpenAI's completions
check("/v1/completions passes echo and suffix over", async (s) => {
  const text = async (more) => (await s.post("/v1/completions", { prompt, max_tokens: 8, temperature: 0, ...more })).choices[0].text;
  assert.equal(await text({ echo: true, suffix: "\n\n> tar -x" }), await text({}));
}, "the text begins with the prompt, and goes before the suffix");
check("/props has the text of ChatML where the model has no template", async (s) => assert.match((await s.get("/props")).chat_template, /<\|im_start\|>/));
check("/v1/completions has OpenAI's form", async (s) => {
  const a = await s.post("/v1/completions", { model: "davinci-002", prompt, max_tokens: 8 });
  assert.equal(a.object, "text_completion");
  assert.equal(a.choices[0].finish_reason, "length");
});

// Chats
check("a chat counts its tokens and gives a message of the assistant", async (s) => {
  const a = await s.post("/chat/completions", user("What is the best book"));
  assert.match(a.id, /cmpl/);
  assert.equal(a.usage.completion_tokens, 8);
  assert.equal(a.choices[0].message.role, "assistant");
  assert.equal(a.choices[0].finish_reason, "length");
});
check("a chat's stream: the role first, no content in the last chunk, usage in one of its own", async (s) => {
  const chunks = await s.stream("/chat/completions", { ...user("Hey"), stream_options: { include_usage: true } });
  const text = chunks.filter((c) => c.choices.length).map((c) => c.choices[0].delta.content ?? "").join("");
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(new Set(chunks.map((c) => c.id)).size, 1);
  assert.ok(chunks.slice(1).every((c) => !c.choices.length || !("role" in c.choices[0].delta)));
  assert.equal(chunks.at(-1).usage.completion_tokens, 8);
  assert.equal(text, (await s.post("/chat/completions", user("Hey"))).choices[0].message.content);
});
check("its first chunk has the content null", async (s) => assert.equal((await s.stream("/chat/completions", user("Hey")))[0].choices[0].delta.content, null), "its first text comes with the role");
check("system_fingerprint begins with b and the build's number", async (s) => assert.match((await s.post("/chat/completions", user("Hey"))).system_fingerprint, /^b/), "`gsd`");
check("messages that are none are refused", async (s) => {
  for (const messages of [null, "text", [123], [{}], [{ role: 123 }], [{ role: "system", content: 123 }], [{ role: "system", content: "x" }, {}]]) {
    const r = await s.ask("POST", "/chat/completions", { messages });
    assert.ok(r.status === 400 || r.status === 500, JSON.stringify(messages) + r.status);
    assert.ok(r.body.error);
  }
});
check("response_format, json_schema and grammar rule the text", async (s) => {
  const text = async (more) => (await s.post("/chat/completions", { ...user("An example"), max_tokens: 20, ...more })).choices[0].message.content;
  assert.match(await text({ response_format: { type: "json_object", schema: { const: "42" } } }), /^\s*"42"/);
  assert.match(await text({ response_format: { type: "json_schema", json_schema: { schema: { const: "foooooo" } } } }), /"foooooo"/);
  assert.match(await text({ json_schema: { const: "42" } }), /"42"/);
  assert.equal(await text({ grammar: 'root ::= "a"{5,5}' }), "aaaaa");
});
check("formats and schemas that are none are 400", async (s) => {
  for (const response_format of [{ type: "sound" }, { type: "json_object", schema: { type: 123 } }, { type: "json_object", schema: { type: "hiccup" } }])
    assert.equal((await s.ask("POST", "/chat/completions", { ...user("x"), response_format })).status, 400, JSON.stringify(response_format));
});
check("a schema of json_object that is a number is passed over", async (s) => s.post("/chat/completions", { ...user("x"), response_format: { type: "json_object", schema: 123 } }), "400");
check("logprobs joined are the text", async (s) => {
  const c = (await s.post("/chat/completions", { ...user("x"), logprobs: true, top_logprobs: 5 })).choices[0];
  assert.equal(c.logprobs.content.map((t) => t.token).join(""), c.message.content);
  assert.ok(c.logprobs.content.every((t) => t.logprob <= 0 && t.top_logprobs.length > 0 && Array.isArray(t.bytes)));
});
check("timings in the chunk with usage", async (s) => {
  const chunks = await s.stream("/chat/completions", { ...user("x"), timings_per_token: true, stream_options: { include_usage: true } });
  assert.ok(chunks.at(-1).timings.predicted_n <= 8 && "prompt_per_second" in chunks.at(-1).timings);
});

// Tokens and templates
check("tokens go there and back, special ones too", async (s) => {
  const content = "What is the capital of France ?";
  const { tokens } = await s.post("/tokenize", { content, add_special: true });
  assert.equal(tokens[0], 0);
  assert.equal((await s.post("/detokenize", { tokens })).content, "<|endoftext|>" + content);
});
check("pieces are texts, or bytes where they are none", async (s) => {
  const { tokens } = await s.post("/tokenize", { content: "unicode 媽 and emoji 🤗", with_pieces: true });
  const bytes = tokens.flatMap((t) => (typeof t.piece === "string" ? [...Buffer.from(t.piece)] : t.piece));
  assert.equal(Buffer.from(bytes).toString(), "unicode 媽 and emoji 🤗");
});
check("/apply-template renders, with and without a prompt for the answer", async (s) => {
  const render = async (more) => (await s.post("/apply-template", { messages: [{ role: "user", content: "Hi" }], ...more })).prompt;
  assert.match(await render({}), /Hi<\|im_end\|>\n<\|im_start\|>assistant\n$/);
  assert.doesNotMatch(await render({ add_generation_prompt: false }), /assistant/);
});
check("names of control tokens in a message become these tokens", async (s) => {
  const count = async (content) => (await s.post("/chat/completions", { ...user(content), max_tokens: 1 })).usage.prompt_tokens;
  assert.equal(await count("x<|endoftext|>"), (await count("x")) + 1);
}, "they stay text: a user cannot close his turn");

// Infill
const gap = { input_prefix: "int main() {\n", prompt: "  int n = ", input_suffix: "}\n", n_predict: 6, temperature: 0 };
check("/infill frames prefix and suffix with the vocabulary's tokens", async (s) => {
  const a = await s.post("/infill", gap);
  assert.ok(a.content.length > 0);
  const piece = async (t) => (await s.post("/detokenize", { tokens: [t] })).content;
  assert.equal(a.prompt, `<|endoftext|>${await piece(5)}int main() {\n  int n = ${await piece(6)}}\n${await piece(7)}`);
});
check("input_extra goes before the prefix", async (s) => {
  const a = await s.post("/infill", { ...gap, input_extra: [{ filename: "n.h", text: "int n();\n" }] });
  assert.ok(a.prompt.indexOf("int n();") >= 0 && a.prompt.indexOf("int n();") < a.prompt.indexOf("int main"));
});
check("input_extra before the begin of text", async (s) => assert.doesNotMatch((await s.post("/infill", { ...gap, input_extra: [{ text: "int n();\n" }] })).prompt, /^<\|endoftext\|>/), "after it, where it begins the text");
check("what is no input_extra is 400", async (s) => {
  for (const extra of [{}, { filename: "ok" }, { filename: 123 }, { filename: 123, text: "abc" }, { filename: 123, text: 456 }]) assert.equal((await s.ask("POST", "/infill", { ...gap, input_extra: [extra] })).status, 400);
});
check("the sampler infill is taken", async (s) => s.post("/infill", { ...gap, samplers: ["top_k", "top_p", "infill"], top_k: 40, top_p: 0.9 }));

// Speculation
check("a text with drafts is the text without", async (s) => {
  const texts = [];
  for (const mode of ["plain", "chain", "tree", "graph", "auto"]) texts.push((await s.native({ n_predict: 60, top_k: 1, speculative: { mode } })).content);
  assert.equal(new Set(texts).size, 1);
});
check("drafts stay within the context", async (s) => assert.ok((await s.native({ prompt: "Hello ".repeat(120), ignore_eos: true })).content.length > 0));

async function run(program, flags) {
  const failed = new Map();
  const server = await start(program, flags);
  for (const c of checks) {
    try { await c.run(server); } catch (e) { failed.set(c.what, String(e.message).split("\n")[0]); }
  }
  server.stop();
  return failed;
}
async function security(program, flags) {
  const s = await start(program, [...flags, "--api-key", key]);
  try {
    await s.get("/health");
    for (const headers of [{}, { Authorization: "Bearer wrong" }]) {
      const r = await s.ask("POST", "/completions", { prompt, n_predict: 1 }, headers);
      assert.equal(r.status, 401);
      assert.equal(r.body.error.type, "authentication_error");
    }
    for (const headers of [{ Authorization: `Bearer ${key}` }, { "X-Api-Key": key }]) assert.ok("content" in (await s.good("POST", "/completions", { prompt, n_predict: 1 }, headers)));
  } finally {
    s.stop();
  }
}

let bad = 0;
const fail = (text) => { console.log("FAILED: " + text); bad = 1; };
const ours = await run(gsd, ["-md", draft]);
await security(gsd, []);
for (const c of checks) {
  const why = ours.get(c.what);
  if (why && !c.different) fail(`gsd: ${c.what}: ${why}`);
  if (!why && c.different) fail(`gsd is said to differ and does not: ${c.what}`);
}
if (llama !== "-" && fs.existsSync(llama)) {
  const theirs = await run(llama, ["-b", "128"]);  // it gives input_extra what its batch leaves of the context
  await security(llama, []);
  for (const [what, why] of theirs) fail(`llama-server: ${what}: ${why}`);
  console.log(`${checks.length} checks of both programs`);
} else {
  console.log(`${checks.length} checks; no llama-server: deps/setup.sh --group peers fetches it`);
}

const table = ["| llama-server 0.7 | gsd |", "|---|---|", ...checks.filter((c) => c.different).map((c) => `| ${c.what} | ${c.different} |`), ""].join("\n");
const [begin, end] = ["<!-- peer_test.mjs -->\n", "<!-- end -->\n"];
const text = fs.readFileSync(document, "utf8");
const [before, rest] = text.split(begin);
const after = rest?.split(end)[1];
if (after === undefined) fail(`${document} has no place for the table`);
else if (write) fs.writeFileSync(document, before + begin + table + end + after);
else if (text !== before + begin + table + end + after) fail(`the table in ${document} is not this one; run with --write`);
console.log(bad ? "failed" : "all passed");
process.exit(bad);
