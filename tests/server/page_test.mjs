// Goes through the page of gsd serve as a user would. Leaves light.png and dark.png to look at.
import {createRequire} from "node:module";
import assert from "node:assert/strict";
import path from "node:path";
import {startServer} from "./start_server.mjs";

const [dir, gsd, models, executablePath] = process.argv.slice(2);
const {chromium} = createRequire(path.join(dir, "npm", "x.js"))("playwright-core");
const env = {...process.env, OMP_WAIT_POLICY: "PASSIVE", XDG_CACHE_HOME: path.join(dir, "cache")};

async function serve(...extra) {
  const {url, child} = await startServer(gsd, ["-m", path.join(models, "toy-target.gguf"), "-md", path.join(models, "toy-draft.gguf"),
    "--port", "0", "-t", "1", "-np", "2", "-c", "2048", "--temp", "0", ...extra], env);
  return {url, stop: () => new Promise((resolve) => { child.on("exit", resolve); child.kill("SIGTERM"); })};
}

const browser = await chromium.launch({executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"]});

// A page that reports its own errors and every request that leaves the server.
async function open(url, colorScheme = "light") {
  const page = await browser.newPage({colorScheme, viewport: {width: 1400, height: 900}});
  page.problems = [];
  page.on("pageerror", (e) => page.problems.push(`error: ${e}`));
  page.on("console", (m) => { if (m.type() === "error") page.problems.push(`console: ${m.text()}`); });
  page.on("request", (r) => { if (!r.url().startsWith(url) && !r.url().startsWith("data:")) page.problems.push(`request: ${r.url()}`); });
  await page.goto(url);
  await page.waitForSelector("html[data-ready]");
  return page;
}
const answers = (page, n) => page.waitForFunction((k) => Number(document.documentElement.dataset.answers || 0) >= k, n);
const step = (page) => page.evaluate(() => Number(document.documentElement.dataset.step));
const settle = (page) => page.evaluate(() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r))));

async function talk(page) {
  await page.keyboard.type("# tar");  // the message field has the focus
  await page.click("#settings summary");
  await page.fill("#p-max_tokens", "60");
  await page.selectOption("#p-mode", "graph");  // auto drafts what the moment's timings advise, which may be nothing
  await page.focus("#prompt");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".token", {state: "attached"});  // the first one may be a line break
  await answers(page, 1);
  const text = await page.textContent(".turn .body");
  assert.ok(text.startsWith("# tar") && text.length > 60, text);
  const direct = await page.evaluate(async () => (await (await fetch("v1/completions", {method: "POST", body: JSON.stringify({prompt: "# tar", max_tokens: 60, temperature: 0, top_p: 0.95, top_k: 40, min_p: 0.05})})).json()).choices[0].text);
  assert.equal(text, "# tar" + direct, "the page shows the text that the API gives");
  const origins = await page.$$eval(".token", (list) => [...new Set(list.map((t) => t.className.split(" ")[1]))]);
  assert.ok(origins.includes("target") && origins.length >= 2, `origins: ${origins}`);
}

async function look(page) {
  await settle(page);
  const last = await step(page);
  assert.ok(last >= 3, `step ${last}`);
  assert.ok(await page.locator("#bars rect").count() >= 3);
  assert.equal(await page.locator("#line path").count(), 1);
  await page.focus("#canvas");
  await page.keyboard.press("ArrowLeft");
  await settle(page);
  assert.equal(await step(page), last - 1, "left arrow");
  await page.keyboard.press("ArrowRight");
  await settle(page);
  assert.equal(await step(page), last, "right arrow");
  // The step with the largest graph.
  const largest = await page.evaluate(() => steps.reduce((best, s, i) => s.gsd.graph.nodes.length > steps[best].gsd.graph.nodes.length ? i : best, 0));
  await page.locator(`.token[data-step="${largest}"]`).first().dispatchEvent("click");
  await settle(page);
  assert.equal(await step(page), largest + 1, "click on a token");
  const expected = await page.evaluate((i) => ({nodes: steps[i].gsd.graph.nodes.length + steps[i].gsd.tree.filter((t) => t.node < 0).length, accepted: steps[i].gsd.path.length}), largest);
  assert.equal(await page.locator("#graph .node").count(), expected.nodes);
  assert.ok(await page.locator("#graph .node").count() > 3);
  assert.ok(await page.locator("#graph .node.accepted").count() >= 1);
  const overlaps = await page.$$eval("#graph .node rect", (list) => {
    const boxes = list.map((r) => r.getBoundingClientRect());
    return boxes.some((a, i) => boxes.slice(i + 1).some((b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom));
  });
  assert.ok(!overlaps, "nodes overlap");
}

async function stopAndHostile(page) {
  await page.fill("#p-max_tokens", "900");
  await page.fill("#prompt", "<img src=x onerror=\"document.title='broken'\"><b>x</b>");
  await page.focus("#prompt");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelectorAll(".turn")[1]?.querySelector(".token"));
  await page.keyboard.press("Escape");
  await answers(page, 2);
  assert.equal(await page.title(), "GSD");
  assert.equal(await page.locator("#log img, #log b").count(), 0);
  await page.waitForFunction(async () => (await (await fetch("slots")).json()).every((s) => !s.is_processing));
  await page.fill("#p-max_tokens", "5");
  await page.fill("#prompt", "x ".repeat(3000));
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.getElementById("problem").textContent.includes("context"));
  assert.equal(await page.locator(".turn").count(), 2, "an error leaves no bubble");
  assert.match(await page.inputValue("#prompt"), /^x x /, "the text that could not be sent is still there");
  await page.fill("#prompt", "");
  await page.click("#clear");
  assert.equal(await page.locator(".turn").count(), 0);
}

async function chat(page) {
  await page.check("input[value=chat]");
  await page.fill("#p-max_tokens", "12");
  for (const n of [1, 2]) {
    await page.fill("#prompt", `question ${n}`);
    await page.focus("#prompt");
    await page.keyboard.press("Enter");
    await page.waitForFunction((k) => document.querySelectorAll(".turn .end").length === k, n);
  }
  assert.equal(await page.locator(".turn").count(), 4);
  assert.match(await page.locator(".turn .end").nth(1).textContent(), /[1-9]\d* prompt tokens reused/, "the second turn reuses the first");
}

// Conversations stay in the browser; the last answer can be repeated, a message edited.
async function keeps(page) {
  await page.reload();
  await page.waitForSelector("html[data-ready]");
  await page.click("#saved summary");
  const open = page.locator("#list .open");
  assert.ok(await open.count() >= 2, "kept conversations");
  await open.first().click();
  assert.equal(await page.locator(".turn").count(), 4);
  await page.getByRole("button", {name: "Regenerate"}).click();
  await answers(page, 1);
  assert.equal(await page.locator(".turn").count(), 4, "regenerate replaces the last answer");
  await page.locator(".turn").nth(2).getByRole("button", {name: "Edit"}).click();
  assert.equal(await page.locator(".turn").count(), 2);
  assert.equal(await page.inputValue("#prompt"), "question 2");
  await page.fill("#prompt", "");
  page.once("dialog", (d) => d.accept("a name"));
  await page.locator("#list").getByRole("button", {name: "Rename"}).first().click();
  assert.equal(await open.first().textContent(), "a name");
  const download = page.waitForEvent("download");
  await page.locator("#list").getByRole("button", {name: "Export"}).first().click();
  assert.equal((await download).suggestedFilename(), "conversation.json");
  const n = await open.count();
  await page.locator("#list").getByRole("button", {name: "Delete"}).first().click();
  assert.equal(await open.count(), n - 1);
  assert.equal(await page.locator(".turn").count(), 0, "the deleted one was on the page");
}

// What a model might write, without one.
async function markdown(page) {
  const html = await page.evaluate(() => markdown("# Head\n\ntext **bold** `a<b` [x](https://e.org) [y](javascript:alert(1))\n- one\n- two\n\n```js\nlet a = '<img src=x>';\n```\n<script>document.title='broken'</script>").outerHTML);
  for (const part of ["<h3>Head</h3>", "<strong>bold</strong>", "<code>a&lt;b</code>", "href=\"https://e.org\"", "<li>two</li>", "<pre>let a = '&lt;img src=x&gt;';</pre>", "&lt;script&gt;"])
    assert.ok(html.includes(part), `${part} in ${html}`);
  assert.ok(!html.includes("href=\"javascript"), html);
  // Reasoning and tool calls are folded; a plain step keeps the last tree.
  await page.evaluate(() => {
    current.kind = "chat";
    const {turn, inner} = addTurn("answer", "", true);
    const state = {turn, place: inner, text: "", reasoning: "", calls: [], times: []};
    for (const delta of [{reasoning_content: "because"}, {tool_calls: [{index: 0, function: {name: "f", arguments: "{\"a\""}}]}, {tool_calls: [{index: 0, function: {arguments: ":1}"}}]}])
      receive({choices: [{delta}]}, state);
    const q = {draft_ms: 0, verify_ms: 0, path: [], emitted: [{text: "x", origin: "target"}]};
    steps.push({gsd: {...q, graph: {nodes: [{text: "r", depth: 0, p: 1}, {text: "a", depth: 1, p: 1}], edges: [{from: 0, to: 1}]}, tree: [{parent: -1, node: 0}, {parent: 0, node: 1}]}, rate: 1},
      {gsd: {...q, graph: {nodes: [{text: "r", depth: 0, p: 1}], edges: []}, tree: [{parent: -1, node: 0}]}, rate: 1});
    show(steps.length - 1);
  });
  await settle(page);
  assert.deepEqual(await page.$$eval(".fold", (list) => list.map((f) => [f.open, f.textContent])), [[false, "Reasoningbecause"], [false, "Tool call: f{\"a\":1}"]]);
  assert.equal(await page.locator("#graph .node").count(), 2);
  assert.match(await page.textContent("#kept"), /plain/);
  await page.evaluate(() => {
    const data = new DataTransfer();
    data.items.add(new File(["x"], "x.png", {type: "image/png"}));
    document.getElementById("prompt").dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true}));
  });
  assert.match(await page.textContent("#problem"), /Images cannot be sent/);
}

// On a phone the input is in sight, and the text is followed unless the reader went up.
async function phone(page) {
  await page.setViewportSize({width: 390, height: 700});
  await page.click("#clear");
  await page.evaluate(() => { current.kind = "chat"; for (let i = 0; i < 40; ++i) addTurn("you", "line " + i, false); });
  const place = await page.locator("#prompt").boundingBox();
  assert.ok(place.y >= 0 && place.y + place.height <= 700, `the input is at ${place.y}`);
  const receiveOne = () => page.evaluate(() => {
    const {turn, inner} = window.test ??= addTurn("answer", "", true);
    receive({choices: [{delta: {content: "word ".repeat(80)}}]}, {turn, place: inner, text: "", reasoning: "", calls: [], times: []});
    return [atEnd(), $("log").scrollTop];
  });
  assert.equal((await receiveOne())[0], true, "followed");
  await page.evaluate(() => { $("log").scrollTop = 0; });
  assert.deepEqual(await receiveOne(), [false, 0], "a reader who went up stays there");
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= 390), "wider than the phone");
}

let failed = false;
const server = await serve();
try {
  for (const scheme of ["light", "dark"]) {
    const page = await open(server.url, scheme);
    await talk(page);
    await look(page);
    await page.screenshot({path: path.join(dir, scheme + ".png")});
    if (scheme === "light") {
      await stopAndHostile(page);
      await chat(page);
      await keeps(page);
      await markdown(page);
      await phone(page);
      page.problems = page.problems.filter((p) => !p.includes("400"));  // the prompt that was too long
    }
    assert.deepEqual(page.problems, [], scheme);
    console.log("ok:", scheme);
  }
  const locked = await serve("--api-key", "k1");
  const page = await browser.newPage();
  await page.goto(locked.url);
  await page.waitForFunction(() => document.getElementById("problem").textContent.includes("API key"));
  await page.fill("#p-api_key", "k1");
  await page.keyboard.press("Tab");
  await page.waitForSelector("html[data-ready]");
  await locked.stop();
  console.log("ok: key");
} catch (error) {
  failed = true;
  console.log(`FAILED: ${error.stack}`);
}
await browser.close();
if (await server.stop() !== 0) failed = true;
process.exit(failed ? 1 : 0);
