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
  await page.click("summary");
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
