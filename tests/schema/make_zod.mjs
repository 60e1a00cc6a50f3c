// Writes zod.jsonl: what zod 4 and OpenAI's helper emit, each with values that satisfy it and values that do not.
//   npm install zod@4 openai && node make_zod.mjs > zod.jsonl
import {z} from "zod";
import {zodResponseFormat} from "openai/helpers/zod";

const tree = z.object({name: z.string(), get children() { return z.array(tree); }});
const cases = [
  ["integers", z.object({age: z.int().min(0).max(130), score: z.number().gte(0).lt(1), even: z.int().multipleOf(2)}),
    [{age: 0, score: 0, even: 0}, {age: 130, score: 0.25, even: -12}], [{age: 131, score: 0, even: 0}, {age: 1, score: 1, even: 0}, {age: 1, score: 0, even: 3}, {age: 1.5, score: 0, even: 2}]],
  ["int without bounds", z.object({n: z.int(), p: z.int().positive(), m: z.number().negative()}), [{n: -7, p: 1, m: -0.5}], [{n: 0.5, p: 1, m: -1}, {n: 0, p: 0, m: -1}, {n: 0, p: 1, m: 0}]],
  ["texts", z.object({id: z.uuid(), mail: z.email(), at: z.iso.datetime(), day: z.iso.date(), hour: z.iso.time(), link: z.url(), v4: z.ipv4(), code: z.string().regex(/^[A-Z]{2}-\d{3}$/), start: z.string().startsWith("ab")}),
    [{id: "123e4567-e89b-42d3-a456-426614174000", mail: "ann@example.com", at: "2024-02-29T10:11:12Z", day: "2023-12-31", hour: "10:11:12", link: "https://example.com/a?b=c#d", v4: "192.168.0.1", code: "AB-123", start: "abc"}],
    [{id: "x", mail: "ann@example.com", at: "2024-02-29T10:11:12Z", day: "2023-12-31", hour: "10:11:12", link: "https://example.com/", v4: "192.168.0.1", code: "AB-123", start: "abc"},
     {id: "123e4567-e89b-42d3-a456-426614174000", mail: "ann@example.com", at: "2023-02-29T10:11:12Z", day: "2023-12-31", hour: "10:11:12", link: "https://example.com/", v4: "192.168.0.1", code: "AB-123", start: "abc"}]],
  ["lengths", z.object({s: z.string().min(2).max(4), a: z.array(z.int()).min(1).max(3), e: z.array(z.string()).length(2)}), [{s: "héé", a: [1], e: ["a", "b"]}], [{s: "a", a: [1], e: ["a", "b"]}, {s: "ab", a: [], e: ["a", "b"]}, {s: "ab", a: [1], e: ["a"]}]],
  ["tuple", z.tuple([z.string(), z.int()]), [["a", 1]], [["a"], [1, "a"], ["a", 1, 2]]],
  ["tuple with rest", z.tuple([z.string()], z.boolean()), [["a"], ["a", true, false]], [[], ["a", 1]]],
  ["record", z.record(z.string(), z.int()), [{}, {a: 1, b: 2}], [{a: "x"}]],
  ["record of an enum", z.record(z.enum(["a", "b"]), z.boolean()), [{a: true, b: false}], [{a: true, c: true}]],
  ["loose", z.looseObject({a: z.int()}), [{a: 1}, {a: 1, b: "x"}], [{a: "x"}, {b: 1}]],
  ["rest", z.object({a: z.int()}).catchall(z.string()), [{a: 1}, {a: 1, b: "x"}], [{a: 1, b: 2}]],
  ["union", z.object({u: z.discriminatedUnion("type", [z.object({type: z.literal("a"), x: z.int()}), z.object({type: z.literal("b"), y: z.string()})])}),
    [{u: {type: "a", x: 1}}, {u: {type: "b", y: "z"}}], [{u: {type: "a", y: "z"}}, {u: {type: "c"}}]],
  ["intersection", z.intersection(z.object({a: z.int()}), z.object({b: z.string()})), [{a: 1, b: "x"}], [{a: 1}, {b: "x"}]],
  ["nullable", z.object({a: z.string().nullable(), b: z.int().optional(), c: z.literal([1, "x", null])}), [{a: null, c: "x"}, {a: "y", b: 3, c: null}], [{a: 1, c: 1}, {a: null, c: 2}]],
  ["recursive", tree, [{name: "a", children: [{name: "b", children: []}]}], [{name: "a"}, {name: "a", children: [{}]}]],
  ["openai", zodResponseFormat(z.object({steps: z.array(z.object({text: z.string(), output: z.number()})), final: z.string().nullable()}), "x").json_schema.schema,
    [{steps: [{text: "a", output: 1.5}], final: null}], [{steps: [{text: "a"}], final: "x"}, {steps: []}]],
  ["openai recursive", zodResponseFormat(tree, "x").json_schema.schema, [{name: "a", children: [{name: "b", children: []}]}], [{name: "a"}]],
];
for (const [name, schema, valid, invalid] of cases)
  console.log(JSON.stringify({name, schema: schema instanceof z.ZodType ? z.toJSONSchema(schema) : schema, valid, invalid}));
