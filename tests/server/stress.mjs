// Many clients on few slots: no token may be lost, doubled or swapped, and memory may not grow.
//   node stress.mjs GSD TARGET DRAFT [--seconds 60] [--clients 64] [--slots 4] [--exact] [--threads 2] [--tokens 48]
// Each client asks for the same prompts again and again, at temperature 0, streamed or not, in every mode, and now and then
// goes away in the middle. What it gets is compared with the prompt's text when nothing else runs. Kernels round
// differently at different widths: without --exact a text may part from that one where the two best tokens are nearly
// equal, and that is reported. Exit code 1: a text is wrong, a request failed, or memory grew.
import fs from "node:fs";
import http from "node:http";
import {startServer} from "./start_server.mjs";

const [gsd, target, draft, ...rest] = process.argv.slice(2);
const flag = (name, initial) => { const i = rest.indexOf("--" + name); return i < 0 ? initial : Number(rest[i + 1]); };
const exact = rest.includes("--exact");
const seconds = flag("seconds", 60), clients = flag("clients", 64), slots = flag("slots", 4), tokens = flag("tokens", 48), threads = flag("threads", 2);
const kNearTie = 0.25;  // gap in log-probability up to which two tokens count as nearly equal
const prompts = ["# tar", "# git commit", "# ls", "# docker run", "The history of", "# ssh-keygen\n\n> ", "Question: Ann has 5 apples", "# curl"];
const modes = ["plain", "chain", "tree", "graph", "auto"];

const shared = flag("shared", 0);  // positions that four slots share
const server = await startServer(gsd, ["-m", target, "-md", draft, "--port", "0", "-t", String(threads),
  ...(shared ? ["-c", String(shared)] : ["-np", String(slots), "-c", String(512 * slots)]), "--queue", String(2 * clients), ...(exact ? ["--exact"] : [])], process.env);
const {child} = server;
const url = new URL(server.url);
const agent = new http.Agent({keepAlive: true, maxSockets: clients + 4});

// Resolves to the body; `leave`: goes away after the first bytes of it.
function post(path, body, leave = false) {
  return new Promise((resolve, reject) => {
    const request = http.request({host: url.hostname, port: url.port, path, method: "POST", agent: leave ? undefined : agent}, (response) => {
      let text = "";
      response.on("data", (part) => { text += part; if (leave) { request.destroy(); resolve(null); } });
      response.on("end", () => response.statusCode === 200 ? resolve(text) : reject(new Error(`${response.statusCode}: ${text}`)));
      response.on("error", (e) => leave ? resolve(null) : reject(e));
    });
    request.on("error", (e) => leave ? resolve(null) : reject(e));
    request.end(JSON.stringify(body));
  });
}
const rss = () => Number(fs.readFileSync(`/proc/${child.pid}/status`, "utf8").match(/VmRSS:\s+(\d+)/)[1]) / 1024;

const expected = [];
for (const prompt of prompts) {
  const c = JSON.parse(await post("/v1/completions", {prompt, max_tokens: tokens, temperature: 0, logprobs: 2, speculative: {mode: "plain"}})).choices[0];
  expected.push({text: c.text, tokens: c.logprobs.tokens, gaps: c.logprobs.top_logprobs.map((t) => { const v = Object.values(t); return v.length > 1 ? Math.abs(v[0] - v[1]) : 0; })});
}

let done = 0, left = 0, nearTies = 0, widest = 0, emitted = 0;
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
  for (let round = k; Date.now() - start < 1000 * seconds; ++round) {
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
const watcher = setInterval(() => memory.push(rss()), Math.max(200, seconds * 25));
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
const code = await new Promise((resolve) => { child.removeAllListeners("exit"); child.on("exit", (c, signal) => resolve(signal ?? c)); child.kill("SIGTERM"); });
if (code !== 0) console.log(`WRONG: the server ended with ${code}: ${server.log()}`);
process.exit(wrong.length > 0 || grew || done === 0 || code !== 0 ? 1 : 0);
