// What a server remembers of prompts, and adapters, seen from outside. Usage: node memory_test.mjs GSD MODELS EDIT_GGUF
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { startServer } from "./start_server.mjs";

const [gsd, models, edit] = process.argv.slice(2);
const pair = ["-m", `${models}/toy-target.gguf`, "-md", `${models}/toy-draft.gguf`, "-t", "1", "--port", "0"];

async function withServer(flags, work) {
  const { url, child, log } = await startServer(gsd, [...pair, ...flags], process.env);
  try {
    while (!(await fetch(`${url}/health`)).ok) await new Promise((r) => setTimeout(r, 20));
    return await work((path, body, headers = {}) => fetch(`${url}${path}`, { method: body === undefined ? "GET" : "POST", headers, body: body && JSON.stringify(body) }).then((r) => r.json()), log);
  } finally {
    const ended = new Promise((resolve) => child.on("exit", resolve));
    child.kill();
    assert.equal(await ended, 0, log());
  }
}

const complete = (ask, prompt, more = {}, headers) => ask("/completion", { prompt, n_predict: 12, temperature: 0, ignore_eos: true, ...more }, headers);
const conversation = (i) => `# The manual of the command ${"abcdefg"[i]}${i}\n\n` + `Option -${"abcdefg"[i]} ${i} reads the file ${i}, then it writes ${i} lines. `.repeat(8);

// The least share of its first turn that a second turn of seven conversations found.
async function secondTurns(flags) {
  return withServer(["-c", "4096", ...flags], async (ask) => {
    const first = [];
    for (let i = 0; i < 7; ++i) first.push(await complete(ask, conversation(i)));
    let least = 1;
    for (let i = 0; i < 7; ++i) {
      const again = await complete(ask, conversation(i) + first[i].content + " See also: ");
      least = Math.min(least, again.timings.cache_n / (first[i].tokens_evaluated + first[i].tokens_predicted));
    }
    return least;
  });
}

for (const slots of [["-np", "4"], []]) {
  const kept = await secondTurns(slots);
  assert.ok(kept > 0.9, `of seven conversations ${slots} ${kept} was kept`);
}
assert.ok((await secondTurns(["-np", "4", "--cache-ram", "0"])) < 0.1, "without the cache the prompts are computed again");
console.log("seven conversations on four slots");

await withServer(["-np", "2", "--api-key", "one", "--api-key", "two"], async (ask) => {
  const as = (key) => ({ Authorization: `Bearer ${key}` });
  const reused = async (key) => (await complete(ask, conversation(0), {}, as(key))).timings.cache_n;
  assert.equal(await reused("one"), 0);
  assert.equal(await reused("two"), 0, "another key's prompt shows in nobody's timings");
  assert.ok((await reused("one")) > 50);
  assert.ok((await reused("two")) > 50);
});
await withServer(["--exact", "-cram", "100"], async (ask, log) => {
  assert.match(log(), /note: --cache-ram has no effect with --exact/);
  await complete(ask, conversation(0));
  assert.equal((await complete(ask, conversation(0))).timings.cache_n, 0);
});
console.log("keys, exact mode");

const dir = mkdtempSync(`${tmpdir()}/gsd-slots-`);
try {
  const action = (ask, id, what, filename) => ask(`/slots/${id}?action=${what}`, { filename });
  const saving = ["-np", "2", "--cache-ram", "0", "--slot-save-path", dir];
  const first = await withServer(saving, async (ask) => {
    const answer = await complete(ask, conversation(0), { id_slot: 1 });
    const saved = await action(ask, 1, "save", "first.slot");
    assert.equal(saved.n_saved, answer.tokens_evaluated + answer.tokens_predicted - 1);
    assert.equal(saved.n_written, readFileSync(`${dir}/first.slot`).length);
    assert.ok((await action(ask, 1, "save", "../first.slot")).error.message.includes("filename"));
    return answer;
  });
  const bytes = readFileSync(`${dir}/first.slot`);
  bytes[bytes.length - 100] ^= 1;
  writeFileSync(`${dir}/damaged.slot`, bytes);
  await withServer(saving, async (ask) => {
    assert.match((await action(ask, 0, "restore", "damaged.slot")).error.message, /damaged/);
    assert.equal((await action(ask, 0, "restore", "first.slot")).n_restored, first.tokens_evaluated + first.tokens_predicted - 1);
    const again = await complete(ask, conversation(0), { id_slot: 0 });
    assert.equal(again.timings.prompt_n, 1);
    assert.equal(again.content, first.content);
    assert.ok((await ask("/slots/0?action=erase", {})).n_erased > 50);
    assert.equal((await complete(ask, conversation(0), { id_slot: 0 })).timings.cache_n, 0);
  });
  await withServer([...saving, "-ctk", "q8_0"], async (ask) => {
    assert.match((await action(ask, 0, "restore", "first.slot")).error.message, /other settings/);
  });
  await withServer([], async (ask) => assert.match((await action(ask, 0, "save", "x")).error.message, /--slot-save-path/));
  console.log("slots in files");

  const adapter = `${dir}/adapter.gguf`;
  execFileSync(edit, [`${models}/toy-target.gguf`, adapter, "--lora", "1"]);
  const lora = (scale) => ({ lora: [{ id: 0, scale }] });
  const texts = await withServer(["-np", "2", "--lora-scaled", `${adapter}:0.5`], async (ask) => {
    assert.deepEqual((await ask("/lora-adapters")).map((a) => [a.id, a.path, a.scale]), [[0, adapter, 0.5]]);
    const half = (await complete(ask, conversation(0))).content;
    const scales = [0, 0.5, 1, 1, 0, 0.5];
    const all = await Promise.all(scales.map((s) => complete(ask, conversation(0), lora(s))));
    scales.forEach((s, i) => assert.equal(all[i].content, all[scales.indexOf(s)].content, `scale ${s}`));
    assert.equal(all[1].content, half);
    assert.notEqual(all[0].content, all[2].content);
    assert.deepEqual(await ask("/lora-adapters", [{ id: 0, scale: 1 }]), { success: true });
    assert.equal((await complete(ask, conversation(0))).content, all[2].content);
    return { none: all[0].content, whole: all[2].content };
  });
  const start = async (flags) => withServer(flags, async (ask) => (await complete(ask, conversation(0))).content);
  assert.equal(await start([]), texts.none);
  assert.equal(await start(["--lora", adapter]), texts.whole);
  assert.equal(await start(["--lora", adapter, "--lora-init-without-apply"]), texts.none);
  assert.equal(await start(["--lora", adapter, "--exact"]), texts.whole);
  console.log("adapters");
} finally {
  rmSync(dir, { recursive: true });
}
await withServer(["--no-slots", "--no-webui"], async (ask) => {
  assert.match((await ask("/slots")).error.message, /--no-slots/);
  assert.match((await ask("/")).error.message, /There is no/);
});
