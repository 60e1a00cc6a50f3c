// gsd serve beside llama-server: total tokens/s of 1, 2, 4 and 8 streams, and what the server adds to gsd generate.
//   node bench/serve_bench.mjs GSD TARGET DRAFT [--peer LLAMA_SERVER] [--repetitions 3] [--tokens 96] [--requests 16]
//                              [--loads 1,2,4,8; 0 = none] [--pairs 60] [--threads 2] [--out FILE.json] [--svg FILE.svg]
// All servers are loaded at the same time and take turns, load by load and repetition by repetition; a server without
// requests does not compute. Temperature 0, the end of text ignored, answers not streamed (llama-server would pay for one
// chunk a token). Every cell of the table has prompts of its own out of models/prompts/prompts.jsonl, as long as they last: a
// server that remembers texts must not meet the same one again. Prints the medians as a table.
import {spawn, spawnSync} from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import {fileURLToPath} from "node:url";

const [gsd, target, draft, ...rest] = process.argv.slice(2);
const flag = (name, initial) => { const i = rest.indexOf("--" + name); return i < 0 ? initial : rest[i + 1]; };
const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const loads = flag("loads", "1,2,4,8").split(",").map(Number).filter((n) => n > 0);  // 0 = none
const repetitions = Number(flag("repetitions", 3)), tokens = Number(flag("tokens", 96)), requests = Number(flag("requests", 16));
const threads = flag("threads", "2"), peer = flag("peer", "");
const pairs = Number(flag("pairs", 60));
const slots = Math.max(1, ...loads);
const all = fs.readFileSync(path.join(root, "models/prompts/prompts.jsonl"), "utf8").trim().split("\n").map((l) => JSON.parse(l).prompt);
// Prompts of the k-th measurement: spread over the kinds of text, which stand one behind the other in the file.
const prompts_of = (k) => [...Array(requests).keys()].map((i) => all[(Math.floor(i * all.length / requests) + k) % all.length]);
const median = (list) => { const s = [...list].sort((a, b) => a - b); return s.length % 2 ? s[(s.length - 1) / 2] : (s[s.length / 2 - 1] + s[s.length / 2]) / 2; };

const children = [];
async function serve(program, args, port) {
  const child = spawn(program, args, {stdio: ["ignore", "ignore", "ignore"]});
  children.push(child);
  for (let i = 0; i < 600; ++i) {
    if (child.exitCode !== null) throw new Error(`${program} ${args.join(" ")} ended with ${child.exitCode}`);
    const ok = await fetch(`http://127.0.0.1:${port}/health`).then((r) => r.ok, () => false);
    if (ok) return port;
    await new Promise((r) => setTimeout(r, 100));
  }
  throw new Error(`${program} does not answer`);
}

const agent = new http.Agent({keepAlive: true, maxSockets: 64});
function post(port, body) {
  return new Promise((resolve, reject) => {
    const begin = performance.now();
    const request = http.request({host: "127.0.0.1", port, path: "/v1/completions", method: "POST", agent, headers: {"Content-Type": "application/json"}}, (response) => {
      let text = "", first = 0;
      response.on("data", (part) => { first ||= performance.now() - begin; text += part; });
      response.on("end", () => response.statusCode === 200 ? resolve({text, first}) : reject(new Error(text)));
    });
    request.on("error", reject);
    request.end(JSON.stringify(body));
  });
}
// Tokens per second over all requests, `load` at a time.
async function run(c, load, prompts) {
  let next = 0, total = 0;
  const begin = performance.now();
  await Promise.all([...Array(load).keys()].map(async () => {
    while (next < prompts.length) {
      const {text} = await post(c.port, {prompt: prompts[next++], max_tokens: tokens, temperature: 0, ignore_eos: true, cache_prompt: false, ...c.body});
      total += JSON.parse(text).usage.completion_tokens;
    }
  }));
  return 1000 * total / (performance.now() - begin);
}

let nextPort = 18100;
const common = (port) => ["-m", target, "-c", String(1024 * slots), "-np", String(slots), "-t", threads, "--port", String(port)];
const contestants = [];
{
  const port = await serve(gsd, ["serve", ...common(++nextPort), "-md", draft], nextPort);
  for (const mode of ["plain", "auto"]) contestants.push({name: `gsd serve, ${mode}`, group: "gsd " + mode, port, body: {speculative: {mode}}});
}
if (peer) {
  const llama = async (name, group, ...args) => contestants.push({name, group, port: await serve(peer, [...common(++nextPort), ...args], nextPort), body: {}});
  await llama("llama-server, plain", "llama plain");
  for (const n of [2, 3, 5])
    for (const p of [0, 0.5])
      await llama(`llama-server, draft-simple, n-max ${n}, p-min ${p}`, "llama speculative", "-md", draft, "--spec-type", "draft-simple", "--spec-draft-n-max", String(n), "--spec-draft-p-min", String(p));
  for (const type of ["ngram-simple", "ngram-mod"]) await llama(`llama-server, ${type}`, "llama speculative", "--spec-type", type);
}

const results = contestants.map(() => loads.map(() => []));
for (const c of contestants) await run(c, 2, ["warm", "up"]);
for (let r = 0; r < repetitions; ++r)
  for (const [l, load] of loads.entries())
    for (const [i, c] of contestants.entries()) results[i][l].push(await run(c, load, prompts_of(r * loads.length + l)));

const table = contestants.map((c, i) => ({name: c.name, group: c.group, speeds: results[i].map(median), runs: results[i]}));
const row = (name, speeds) => `| ${name} | ${speeds.map((s) => Math.round(s)).join(" | ")} |`;
if (loads.length > 0) console.log(`| tokens/s with this many streams | ${loads.join(" | ")} |\n|---|${loads.map(() => "---|").join("")}`);
if (loads.length > 0) for (const t of table) console.log(row(t.name, t.speeds));
const series = {};
for (const t of table) series[t.group] = loads.map((_, l) => Math.max(series[t.group]?.[l] ?? 0, t.speeds[l]));
if (peer) console.log(row("llama-server, best speculation at each load", series["llama speculative"]));

// One stream beside gsd generate, and the time to the first token beside the prefill: a fresh server, and curl as the
// client, since on two cores a heavier one takes time from the model's threads.
for (const c of children.splice(0)) { c.kill("SIGTERM"); await new Promise((r) => c.on("exit", r)); }
const generate = [], streamed = [], first = [];
const port = await serve(gsd, ["serve", "-m", target, "-md", draft, "-t", threads, "--port", String(++nextPort)], nextPort);
const answer = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "serve_bench")), "answer");
const curl = (body) => spawnSync("curl", ["-sN", "-o", answer, `http://127.0.0.1:${port}/v1/completions`, "-d", JSON.stringify({temperature: 0, ignore_eos: true, cache_prompt: false, stream: true, ...body})]);
const timings = (text) => JSON.parse(text.split("\n\n").filter((l) => l.startsWith("data: {")).at(-1).slice(6)).timings;
// A server runs for long: like gsd generate, whose profile is kept from run to run, it has learned this machine's costs.
for (let r = 0; pairs > 0 && r < 12; ++r) curl({prompt: all[5 * r], max_tokens: 128});
for (let r = 0; r < pairs; ++r) {
  const prompt = all[(7 * r + Math.floor(r / all.length)) % all.length];
  const own = () => generate.push(JSON.parse(spawnSync(gsd, ["generate", "-m", target, "-d", draft, "-t", threads, "-n", "128", "--ignore-eos", "--json", "-p", prompt]).stdout).tokens_per_second);
  const served = () => { curl({prompt, max_tokens: 128}); streamed.push(timings(fs.readFileSync(answer, "utf8")).predicted_per_second); };
  for (const one of r % 2 ? [own, served] : [served, own]) one();
}
for (let r = 0; r < 5; ++r) {
  const {text, first: ms} = await post(port, {prompt: all.join("\n").slice(0, 1200), max_tokens: 4, temperature: 0, ignore_eos: true, cache_prompt: false, stream: true, speculative: {mode: "plain"}});
  const t = timings(text);
  first.push({ms, prompt_ms: t.prompt_ms, prompt_n: t.prompt_n, step_ms: t.predicted_ms / t.steps});
}
const mean = (list) => list.length / list.reduce((sum, v) => sum + 1 / v, 0);  // of speeds over equally many tokens
const ratio = median(generate.map((g, i) => streamed[i] / g));
console.log(`\none stream, streamed, beside gsd generate, ${pairs} prompts: ${mean(streamed).toFixed(0)} and ${mean(generate).toFixed(0)} tokens/s (${(mean(streamed) / mean(generate)).toFixed(3)}), median of the quotients ${ratio.toFixed(3)}`);
const added = median(first.map((f) => f.ms - f.prompt_ms - f.step_ms));
console.log(`first token of a prompt of ${first[0].prompt_n} tokens: ${median(first.map((f) => f.ms)).toFixed(1)} ms, of which prefill ${median(first.map((f) => f.prompt_ms)).toFixed(1)} ms and one step ${median(first.map((f) => f.step_ms)).toFixed(1)} ms; the rest ${added.toFixed(1)} ms`);
for (const c of children) c.kill("SIGTERM");
agent.destroy();
if (flag("out")) fs.writeFileSync(flag("out"), JSON.stringify({loads, table, generate, streamed, first}, null, 1));

// The chart: one line for each group, the best of it at each load.
if (flag("svg") && loads.length > 0) {
  const width = 640, height = 340, left = 60, bottom = 290, top = 20;
  const most = Math.max(...Object.values(series).flat()) * 1.08;
  const x = (i) => left + 20 + i * (width - left - 200) / Math.max(1, loads.length - 1), y = (v) => bottom - v / most * (bottom - top);
  const colours = {"gsd auto": "#2a6fdb", "gsd plain": "#7aa7ea", "llama plain": "#c9a27a", "llama speculative": "#c8500e"};
  let svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>`;
  const tick = 10 ** Math.floor(Math.log10(most / 2)) * (most / 10 ** Math.floor(Math.log10(most / 2)) > 6 ? 2 : 1);
  for (let v = 0; v < most; v += tick) svg += `<line x1="${left}" x2="${width - 180}" y1="${y(v)}" y2="${y(v)}" stroke="#ddd"/><text x="${left - 8}" y="${y(v) + 4}" text-anchor="end">${v}</text>`;
  loads.forEach((l, i) => { svg += `<text x="${x(i)}" y="${bottom + 20}" text-anchor="middle">${l}</text>`; });
  svg += `<text x="${(left + width - 180) / 2}" y="${bottom + 40}" text-anchor="middle">streams</text><text x="14" y="${(top + bottom) / 2}" transform="rotate(-90 14 ${(top + bottom) / 2})" text-anchor="middle">tokens/s, all streams</text>`;
  let labels = Object.entries(series).map(([name, s]) => ({name, y: y(s.at(-1)), s})).sort((a, b) => a.y - b.y);
  labels.forEach((l, i) => { if (i > 0) l.y = Math.max(l.y, labels[i - 1].y + 16); });
  for (const {name, y: at, s} of labels) {
    svg += `<polyline fill="none" stroke="${colours[name]}" stroke-width="2.5" points="${s.map((v, i) => `${x(i)},${y(v)}`).join(" ")}"/>`;
    s.forEach((v, i) => { svg += `<circle cx="${x(i)}" cy="${y(v)}" r="3.5" fill="${colours[name]}"/>`; });
    svg += `<text x="${x(s.length - 1) + 10}" y="${at + 4}" fill="${colours[name]}">${name.replace("llama", "llama-server").replace("gsd", "gsd serve")}</text>`;
  }
  fs.writeFileSync(flag("svg"), svg + "</svg>\n");
}
