// Many clients on few slots: no token may be lost, doubled or swapped, and neither memory nor descriptors may grow.
//   node stress.mjs GSD TARGET DRAFT [--seconds 60 | --requests N] [--clients 64] [--slots 4] [--exact] [--threads 2] [--tokens 48]
// Each client asks for the same prompts again and again, at temperature 0, streamed or not, in every mode, and now and then
// goes away in the middle. What it gets is compared with the prompt's text when nothing else runs. Kernels round
// differently at different widths: without --exact a text may part from that one where the two best tokens are nearly
// equal, and that is reported, as is the time between two pieces of a stream. Exit code 1: a text is wrong, a request failed or
// was not counted once by the server, or memory or descriptors grew.
import fs from "node:fs";
import http from "node:http";
import {startServer} from "./start_server.mjs";

const [gsd, target, draft, ...rest] = process.argv.slice(2);
const flag = (name, initial) => { const i = rest.indexOf("--" + name); return i < 0 ? initial : Number(rest[i + 1]); };
const exact = rest.includes("--exact");
const requests = flag("requests", Infinity), seconds = flag("seconds", requests < Infinity ? 1e6 : 60), clients = flag("clients", 64), slots = flag("slots", 4), tokens = flag("tokens", 48), threads = flag("threads", 2);
const kNearTie = 0.25;  // gap in log-probability up to which two tokens count as nearly equal
const prompts = ["# tar", "# git commit", "# ls", "# docker run", "The history of", "# ssh-keygen\n\n> ", "Question: Ann has 5 apples", "# curl"];
const modes = ["plain", "chain", "tree", "graph", "auto"];

const shared = flag("shared", 0);  // positions that four slots share
const server = await startServer(gsd, ["-m", target, "-md", draft, "--port", "0", "-t", String(threads),
  ...(shared ? ["-c", String(shared)] : ["-np", String(slots), "-c", String(512 * slots)]), "--queue", String(2 * clients), ...(exact ? ["--exact"] : [])], process.env);
const {child} = server;
const url = new URL(server.url);
const agent = new http.Agent({keepAlive: true, maxSockets: clients + 4});

const gaps = [];  // ms between two pieces of a stream

// Resolves to the body; `leave`: goes away after the first bytes of it.
function post(path, body, leave = false) {
  return new Promise((resolve, reject) => {
    const request = http.request({host: url.hostname, port: url.port, path, method: "POST", agent: leave ? undefined : agent}, (response) => {
      let text = "", last = 0;
      response.on("data", (part) => {
        const now = performance.now();
        if (last > 0 && body.stream) gaps.push(now - last);
        last = now;
        text += part;
        if (leave) { request.destroy(); resolve(null); }
      });
      response.on("end", () => response.statusCode === 200 ? resolve(text) : reject(new Error(`${response.statusCode}: ${text}`)));
      response.on("error", (e) => leave ? resolve(null) : reject(e));
    });
    request.on("error", (e) => leave ? resolve(null) : reject(e));
    request.end(JSON.stringify(body));
  });
}
const rss = () => Number(fs.readFileSync(`/proc/${child.pid}/status`, "utf8").match(/VmRSS:\s+(\d+)/)[1]) / 1024;
const descriptors = () => fs.readdirSync(`/proc/${child.pid}/fd`).length;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
// Jobs that the server has ended, whatever their end.
const ended = async () => {
  const text = await new Promise((resolve, reject) => http.get({host: url.hostname, port: url.port, path: "/metrics", agent: false}, (r) => {
    let all = "";
    r.on("data", (part) => all += part);
    r.on("end", () => resolve(all));
  }).on("error", reject));
  return Number(text.match(/^gsd:requests_total (\d+)/m)[1]);
};
const idleDescriptors = descriptors();

const expected = [];
for (const prompt of prompts) {
  const c = JSON.parse(await post("/v1/completions", {prompt, max_tokens: tokens, temperature: 0, logprobs: 2, speculative: {mode: "plain"}})).choices[0];
  expected.push({text: c.text, tokens: c.logprobs.tokens, gaps: c.logprobs.top_logprobs.map((t) => { const v = Object.values(t); return v.length > 1 ? Math.abs(v[0] - v[1]) : 0; })});
}

let asked = 0, done = 0, left = 0, nearTies = 0, widest = 0, emitted = 0;
const wrong = [];
function check(text, i, what) {
  const e = expected[i];
  if (text === e.text) return;
  let at = 0, bytes = 0;
  while (at < e.tokens.length && text.startsWith(e.text.slice(0, bytes + e.tokens[at].length))) bytes += e.tokens[at++].length;
  const gap = e.gaps[at] ?? Infinity;
  if (!exact && gap <= kNearTie) { ++nearTies; widest = Math.max(widest, gap); }
  else wrong.push(`${what}: parts at token ${at} (gap ${gap}): ${JSON.stringify(text)} instead of ${JSON.stringify(e.text)}`);
}
const start = Date.now();
const memory = [];
async function client(k) {
  for (let round = k; Date.now() - start < 1000 * seconds && asked < requests; ++round) {
    ++asked;
    const i = (round * 7 + k) % prompts.length;
    const stream = round % 2 === 0;
    const mode = modes[(round + k) % modes.length];
    const body = {prompt: prompts[i], max_tokens: tokens, temperature: 0, stream, speculative: {mode}};
    try {
      if (round % 9 === 8) {
        await post("/v1/completions", {...body, stream: true}, true);
        ++left;
        continue;
      }
      const answer = await post("/v1/completions", body);
      if (stream && !answer.endsWith("data: [DONE]\n\n")) throw new Error("the stream has no end");
      const text = stream ? answer.split("\n\n").filter((l) => l.startsWith("data: {")).map((l) => JSON.parse(l.slice(6)).choices[0].text).join("") : JSON.parse(answer).choices[0].text;
      check(text, i, `client ${k}, ${mode}${stream ? ", streamed" : ""}`);
      ++done;
      emitted += tokens;
    } catch (error) {
      wrong.push(`client ${k}, ${mode}: ${error.message}`);
    }
  }
}
const watcher = setInterval(() => memory.push(rss()), Math.min(500, Math.max(200, seconds * 25)));
await Promise.all([...Array(clients).keys()].map(client));
clearInterval(watcher);
memory.push(rss());
const took = (Date.now() - start) / 1000;
const warm = Math.max(...memory.slice(0, Math.ceil(memory.length / 4)));
const end = Math.max(...memory.slice(-Math.ceil(memory.length / 4)));
console.log(`${clients} clients on ${slots} slots for ${took.toFixed(1)} s${exact ? ", exact" : ""}: ${done} answers (${(emitted / took).toFixed(0)} tokens/s), ${left} went away, ${nearTies} parted at a near-tie (gaps up to ${widest.toFixed(3)}), ${wrong.length} wrong`);
console.log(`memory: ${warm.toFixed(1)} MB in the first quarter, ${end.toFixed(1)} MB in the last`);
for (const w of wrong.slice(0, 5)) console.log("WRONG:", w);
// A sanitizer's own memory grows with what it remembers; there the check is of no use.
const grew = !rest.includes("--ignore-memory") && end > warm * 1.02 + 4;
if (grew) console.log("WRONG: memory grew");
agent.destroy();
// Those who went away are noticed with the next token; then every connection and every job is gone.
let counted = 0;
for (let i = 0; i < 100 && (counted = await ended()) < expected.length + asked; ++i) await sleep(50);
for (let i = 0; i < 100 && descriptors() > idleDescriptors; ++i) await sleep(50);
const open = descriptors();
console.log(`descriptors: ${idleDescriptors} before, ${open} after; the server counts ${counted} requests of ${expected.length + asked}`);
if (open > idleDescriptors || counted !== expected.length + asked) wrong.push(console.log("WRONG: they do not add up"));
gaps.sort((a, b) => a - b);
const share = (p) => gaps[Math.min(gaps.length - 1, Math.floor(p * gaps.length))].toFixed(1);
if (gaps.length > 0) console.log(`between two pieces of a stream: median ${share(0.5)} ms, p99 ${share(0.99)} ms, longest ${share(1)} ms`);
const code = await new Promise((resolve) => { child.removeAllListeners("exit"); child.on("exit", (c, signal) => resolve(signal ?? c)); child.kill("SIGTERM"); });
if (code !== 0) console.log(`WRONG: the server ended with ${code}: ${server.log()}`);
process.exit(wrong.length > 0 || grew || done === 0 || code !== 0 ? 1 : 0);
