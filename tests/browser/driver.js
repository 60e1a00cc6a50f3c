// Goes through a page of gsd trace as a user would and leaves "ok" or the list of failures in <html data-test>.
// trace_browser_test.sh puts it behind the page's own script, together with `expected`: the number of steps, and of one
// step the graph nodes, edges, merged edges and tree nodes, counted in the record.
"use strict";

const failures = [];
const check = (condition, what) => { if (!condition) failures.push(what); };
const equal = (is, should, what) => check(is === should, `${what}: ${is} instead of ${should}`);
const all = (selector) => [...document.querySelectorAll(selector)];
const press = (key, target = document.body) => target.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
const ready = () => document.documentElement.dataset.ready;

addEventListener("error", (event) => failures.push(`error: ${event.message}`));

// Nodes of one drawing must not overlap, must lie inside it, and labels inside their nodes.
function checkGeometry(id, when) {
  const canvas = document.getElementById(id).getBoundingClientRect();
  const boxes = all(`#${id} .node`).map((n) => ({box: n.querySelector(".ground").getBoundingClientRect(), texts: [...n.querySelectorAll("text")]}));
  boxes.forEach(({box: a, texts}, i) => {
    check(a.left >= canvas.left && a.right <= canvas.right && a.top >= canvas.top && a.bottom <= canvas.bottom, `${when}: ${id} node ${i} is cut off`);
    for (const t of texts) {
      const label = t.getBoundingClientRect();
      check(label.left >= a.left && label.right <= a.right, `${when}: the label of ${id} node ${i} sticks out`);
    }
    for (const {box: b} of boxes.slice(i + 1)) {
      check(a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top, `${when}: ${id} nodes overlap at ${i}`);
    }
  });
}

function checkExpectedStep() {
  equal(ready(), `step ${expected.step}`, "step of the address");
  equal(all("#graph .node").length, expected.nodes, "graph nodes");
  equal(all("#graph .edge").length, expected.edges, "graph edges");
  equal(all("#graph .edge.merged").length, expected.merged, "merged edges");
  equal(all("#tree .node:not(.own)").length, expected.tree, "tree nodes");
  equal(all("#tree .edge:not(.own)").length, expected.tree - 1, "tree edges");
  equal(all("#emitted .token").length, expected.emitted, "emitted tokens");
  equal(all("#text .token.now").length, expected.emitted, "marked tokens of the text");
}

function checkKeys() {
  for (let i = 0; i < expected.steps; ++i) press("ArrowLeft");
  equal(ready(), "step 1", "left arrow");
  check(document.getElementById("previous").disabled, "the first step has a previous one");
  for (let i = 1; i <= expected.steps; ++i) {
    equal(ready(), `step ${i}`, "right arrow");
    equal(location.hash, `#step=${i}`, "address");
    for (const forward of [true, false]) {
      const box = document.getElementById("forward");
      if (box.checked !== forward) box.click();
      checkGeometry("graph", `step ${i}`);
    }
    checkGeometry("tree", `step ${i}`);
    press("ArrowRight");
  }
  equal(ready(), `step ${expected.steps}`, "right arrow at the end");
}

function checkPointer() {
  const node = document.querySelector("#tree .node");
  const tip = document.getElementById("tip");
  for (const name of ["pointerover", "pointermove"]) node.dispatchEvent(new PointerEvent(name, {bubbles: true, clientX: 50, clientY: 50}));
  check(!tip.hidden && tip.textContent.includes("token"), "no tooltip");
  check(document.querySelector("#graph .node").classList.contains("linked"), "the node of the graph is not shown");
  node.dispatchEvent(new PointerEvent("pointerout", {bubbles: true}));
  check(tip.hidden, "the tooltip stays");
  document.querySelector("#text .token").click();
  equal(ready(), "step 1", "click on the first token");
  const slider = document.getElementById("slider");
  slider.value = expected.steps;
  slider.dispatchEvent(new Event("input"));
  equal(ready(), `step ${expected.steps}`, "slider");
  document.getElementById("previous").click();
  equal(ready(), `step ${Math.max(1, expected.steps - 1)}`, "button");
}

function checkNodeKeys() {
  location.hash = `#step=${expected.step}`;
  show(expected.step - 1);
  const root = document.querySelector("#tree .node");
  root.focus();
  press("ArrowRight", root);
  if (expected.tree > 1) check(document.activeElement !== root && document.activeElement.closest("#tree"), "right arrow leads to no child");
  press("ArrowLeft", document.activeElement);
  equal(document.activeElement, root, "left arrow leads back");
  equal(ready(), `step ${expected.step}`, "step while moving between nodes");
}

// Nothing of the record may have become an element or a script.
function checkHarmless() {
  check(document.title !== "broken", "a script of the record ran");
  equal(all("img, iframe, link, b, object, [onload], [onerror]").length, 0, "foreign elements");
  equal(document.scripts.length, 3, "scripts");
}

for (const part of [checkExpectedStep, checkKeys, checkPointer, checkNodeKeys, checkHarmless]) {
  try { part(); } catch (error) { failures.push(`${part.name}: ${error}`); }
}
document.documentElement.dataset.test = failures.length ? failures.slice(0, 10).join("; ") : "ok";
