// Random schemas: what their grammars write must be valid for ajv, and values made from a schema must be let through.
//   node ajv_test.mjs SCHEMA_TOOL FOLDER_WITH_AJV       GSD_TEST_SEED=N replays a failure
import {spawnSync} from "node:child_process";
import {createRequire} from "node:module";
import path from "node:path";

const [tool, folder] = process.argv.slice(2);
const require = createRequire(path.resolve(folder, "x.js"));
const Ajv = require("ajv/dist/2020").default;
const ajv = new Ajv({strict: false, allErrors: false, multipleOfPrecision: 6, validateSchema: false, logger: false});
require("ajv-formats").default(ajv);

const seed = Number(process.env.GSD_TEST_SEED ?? 20240716);
let state = seed >>> 0;
function random(n) {  // mulberry32
  state = (state + 0x6D2B79F5) >>> 0;
  let t = state;
  t = Math.imul(t ^ t >>> 15, t | 1);
  t ^= t + Math.imul(t ^ t >>> 7, t | 61);
  return ((t ^ t >>> 14) >>> 0) % n;
}
const pick = (list) => list[random(list.length)];
const chance = (n) => random(n) === 0;

const names = ["a", "b", "ab", "x y", "é", "\"q\"", "k1"];
const patterns = ["^[a-c]+$", "^k[0-9]?$", "b", "^(ab|é)*$", "^.{2,3}$", "^(?!a)", "^\\w+ ?\\w*$"];
const formats = ["date", "time", "date-time", "uuid", "email", "uri", "ipv4", "ipv6", "hostname", "duration"];
const examples = {date: "2024-02-29", time: "01:02:03Z", "date-time": "2023-01-31T01:02:03.5+01:00", uuid: "123e4567-e89b-12d3-a456-426614174000",
  email: "a.b@example.org", uri: "https://a.org:80/b?c#d", ipv4: "10.0.0.255", ipv6: "fe80::1", hostname: "a-b.example", duration: "P1Y2DT3H"};
const scalars = [null, true, false, 0, 1, -3, 2.5, "a", "b", "ab", "", "é"];

// --- schemas
function number(s) {
  const whole = s.type === "integer";
  const value = () => whole || chance(2) ? random(41) - 20 : (random(4001) - 2000) / 100;
  if (chance(2)) s[pick(["minimum", "exclusiveMinimum"])] = value();
  if (chance(2)) s[pick(["maximum", "exclusiveMaximum"])] = value();
  if (chance(4)) s.multipleOf = pick(whole ? [1, 2, 3, 7, 10] : [0.1, 0.01, 1, 5]);
}
function text(s) {
  if (chance(3)) s.minLength = random(4);
  if (chance(3)) s.maxLength = random(6);
  if (chance(3)) s.pattern = pick(patterns);
  else if (chance(4)) s.format = pick(formats);
}
function list(s, depth) {
  if (chance(3)) s.prefixItems = Array.from({length: 1 + random(2)}, () => schema(depth + 1));
  if (!chance(4)) s.items = schema(depth + 1);
  if (chance(3)) s.minItems = random(3);
  if (chance(3)) s.maxItems = random(4);
}
function object(s, depth) {
  if (!chance(4)) {
    s.properties = {};
    for (let n = 1 + random(3); n > 0; --n) s.properties[pick(names)] = schema(depth + 1);
  }
  if (chance(2)) s.required = [...new Set([pick(names), pick(Object.keys(s.properties ?? {a: 1}))])].slice(random(2));
  if (chance(3)) s.additionalProperties = chance(3) ? false : schema(depth + 1);
  if (chance(5)) s.patternProperties = {[pick(patterns)]: schema(depth + 1)};
  if (chance(8)) s.propertyNames = chance(2) ? {pattern: pick(patterns)} : {maxLength: 2};
  if (chance(6)) s.minProperties = random(3);
  if (chance(6)) s.maxProperties = random(4);
  if (chance(6)) s.dependentRequired = {[pick(names)]: [pick(names)], [pick(names)]: [pick(names)]};
}
function schema(depth = 0) {
  if (depth > 3) return pick([{type: "integer"}, {type: "null"}, true, {type: "string", maxLength: 2}]);
  const kind = random(depth === 0 ? 11 : 13);
  const s = {};
  if (kind < 2) { s.type = pick(["integer", "number"]); number(s); }
  else if (kind < 4) { s.type = "string"; text(s); }
  else if (kind < 6) { s.type = "array"; list(s, depth); }
  else if (kind < 9) { s.type = "object"; object(s, depth); }
  else if (kind === 9) s[pick(["anyOf", "oneOf"])] = Array.from({length: 1 + random(2)}, () => schema(depth + 1));
  else if (kind === 10) s.allOf = Array.from({length: 2}, () => schema(depth + 1));
  else if (kind === 11) return pick([true, {}, {type: "null"}, {type: "boolean"}, {$ref: "#/$defs/d"}, {$ref: "#"}]);
  else s.enum = Array.from({length: 1 + random(4)}, () => pick(scalars));
  if (chance(8)) { s.anyOf ??= [schema(depth + 1), schema(depth + 1)]; }
  if (chance(8)) s.not = chance(2) ? {enum: [pick(scalars), pick(scalars)]} : {type: pick(["null", "string", "boolean"])};
  if (chance(10)) s.type = ["string", "null", "integer"].slice(random(2));
  return s;
}

// --- values: in the schema's order, since only that is written
let root;
function value(s, depth = 0) {
  if (s === true || depth > 6) return pick(scalars);
  if (s === false) return undefined;
  if (s.$ref) return value(s.$ref === "#" ? root : root.$defs.d, depth + 1);
  if (s.enum) return pick(s.enum);
  for (const key of ["anyOf", "oneOf", "allOf"]) if (s[key] && (!s.type || chance(2))) return value(pick(s[key]), depth + 1);
  const type = Array.isArray(s.type) ? pick(s.type) : s.type;
  if (type === "integer" || type === "number") {
    const step = s.multipleOf ?? (type === "integer" ? 1 : pick([1, 0.5, 0.01]));
    const low = s.minimum ?? s.exclusiveMinimum ?? (s.maximum ?? s.exclusiveMaximum ?? 0) - random(30);
    return Number((Math.ceil(low / step + random(3)) * step).toFixed(4));
  }
  if (type === "string") {
    if (s.format) return examples[s.format];
    return Array.from({length: (s.minLength ?? 0) + random(4)}, () => pick([..."abké1 \"\\\n", "😀"])).join("");
  }
  if (type === "array") {
    const n = Math.max(s.minItems ?? 0, s.prefixItems?.length ?? 0) + (s.items === undefined && s.prefixItems ? 0 : random(3));
    return Array.from({length: Math.min(n, s.maxItems ?? n)}, (_, i) => value(s.prefixItems?.[i] ?? s.items ?? true, depth + 1));
  }
  if (type === "object") {
    const out = {};
    for (const [k, v] of Object.entries(s.properties ?? {})) if (s.required?.includes(k) || chance(2)) out[k] = value(v, depth + 1);
    for (const k of s.required ?? []) if (!(k in out) && !(s.properties && k in s.properties)) out[k] = value(s.additionalProperties ?? true, depth + 1);
    const more = s.additionalProperties ?? (s.properties || s.patternProperties ? false : true);
    if (more !== false) for (const k of names) if (!(k in out) && !(s.properties && k in s.properties) && chance(4)) out[k] = value(more, depth + 1);
    return out;
  }
  return pick(scalars);
}
// What is left out on purpose makes a valid value no fault: see schema.h.
const narrowed = (s) => JSON.stringify(s).match(/"(allOf|anyOf|oneOf|patternProperties|minProperties|dependentRequired|not|\$ref|required)"/);

const cases = [];
for (let i = 0; i < Number(process.env.CASES ?? 500); ++i) {
  root = schema();
  root.$defs = {d: schema(2)};
  const texts = [];
  let valid;
  try { valid = ajv.compile(root); } catch { continue; }  // a circle of references
  const check = (v) => { try { return valid(v); } catch { return undefined; } };
  for (let n = 0; n < 6; ++n) {
    let v;
    try { v = value(root); } catch { continue; }
    if (v === undefined || JSON.stringify(v) !== JSON.stringify(JSON.parse(JSON.stringify(v))) || check(v) !== true) continue;
    texts.push(JSON.stringify(v));
  }
  cases.push({schema: root, texts, check});
}
const run = spawnSync(tool, [String(seed), "4"], {input: cases.map(({schema, texts}) => JSON.stringify({schema, texts})).join("\n") + "\n", maxBuffer: 1 << 30});
if (run.status !== 0) throw new Error(`${tool} ended with ${run.status ?? run.signal}: ${run.stderr}`);
const answers = run.stdout.toString().trim().split("\n").map((line) => JSON.parse(line));
const failures = [];
let samples = 0, accepted = 0, refused = {}, missed = 0;
cases.forEach(({schema, texts, check}, i) => {
  const answer = answers[i];
  const say = (what) => failures.push(`${what}\n  schema: ${JSON.stringify(schema)}`);
  if (answer === undefined) return say("no answer");
  if (answer.broken) return say(`the grammar does not compile: ${answer.broken}`);
  if (answer.dead) say(`a dead end after ${answer.dead}`);
  if (answer.refused) {
    const why = answer.refused.replace(/^.*supported: /, "").replace(/ at #.*$/, "").replace(/\d+/g, "N");
    refused[why] = (refused[why] ?? 0) + 1;
    if (why.startsWith("no value") && texts.length > 0 && !narrowed(schema)) say(`refused, but ${texts[0]} is valid`);
    return;
  }
  for (const text of answer.samples) {
    ++samples;
    let v;
    try { v = JSON.parse(text); } catch { say(`no JSON: ${text}`); continue; }
    if (check(v) === false) say(`not valid: ${text}`);
  }
  texts.forEach((text, k) => {
    if (answer.accepted[k]) ++accepted;
    else if (narrowed(schema)) ++missed;
    else say(`valid, but not let through: ${text}`);
  });
});
console.log(`${cases.length} schemas, ${samples} texts written, ${accepted} valid values let through, ${missed} not written by choice; refused:`, refused);
for (const f of failures.slice(0, 10)) console.log("FAILED (GSD_TEST_SEED=" + seed + "): " + f);
if (samples < cases.length || accepted < cases.length / 4) failures.push("too few schemas were followed");
process.exit(failures.length ? 1 : 0);
