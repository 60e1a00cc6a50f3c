// The page's drawing of one step, without a browser: every node has a place of its own.
import assert from "node:assert/strict";
import {readFileSync} from "node:fs";

const page = readFileSync(process.argv[2], "utf8");
const layout = new Function(page.match(/function layout\(gsd\) \{[^]*?\n\}/)[0] + "\nreturn layout;")();

function check(name, gsd) {
  const {nodes, width, height} = layout(gsd);
  assert.ok(width > 0 && height > 0, `${name}: ${width} x ${height}`);
  const places = nodes.map((n) => `${n.x} ${n.y}`);
  assert.equal(new Set(places).size, nodes.length, `${name}: nodes overlap`);
  for (const n of nodes) {
    assert.ok(n.x >= 0 && n.x + 118 <= width && n.y >= 0 && n.y + 34 <= height, `${name}: a node outside`);
  }
}

const graph = (depths, edges) => ({nodes: depths.map((depth) => ({text: "x", depth, p: 0.5})),
  edges: edges.map(([from, to, merged = false]) => ({from, to, merged}))});
const tree = (list) => list.map(([parent, node, depth]) => ({text: "y", parent, node, depth, p: 0.5, origin: node < 0 ? "history" : "draft"}));

check("root alone", {graph: graph([0], []), tree: tree([[-1, 0, 0]]), path: []});
check("history alone", {graph: graph([0], []), tree: tree([[-1, 0, 0], [0, -1, 1], [1, -1, 2]]), path: [1]});
// The tree follows a merge from depth 3 back to a node of depth 1, three times, and then the history goes on.
check("a tree that is deeper than the graph", {
  graph: graph([0, 1, 2, 3], [[0, 1], [1, 2], [2, 3], [3, 1, true]]),
  tree: tree([[-1, 0, 0], [0, 1, 1], [1, 2, 2], [2, 3, 3], [3, 1, 4], [4, 2, 5], [5, 3, 6], [6, -1, 7], [7, -1, 8]]),
  path: [1, 2, 3, 4],
});
