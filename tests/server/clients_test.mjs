// Packages that people point at a local server do their first task: the model calls a tool, is given the result and
// answers. The bundled target knows nothing of tools: that the call must come is said in the request.
// Usage: node clients_test.mjs FOLDER_OF_NODE_MODULES GSD MODELS TEMPLATES FOLDER_FOR_FILES
import assert from "node:assert/strict";
import {createRequire} from "node:module";
import path from "node:path";
import {startServer} from "./start_server.mjs";

const [modules, gsd, models, templates, dir] = process.argv.slice(2);
const require = createRequire(path.join(modules, "x.js"));
const {OpenAI} = require("openai");
const {Anthropic} = require("@anthropic-ai/sdk");
const ai = require("ai");
const {createOpenAI} = require("@ai-sdk/openai");
const {createOpenAICompatible} = require("@ai-sdk/openai-compatible");
const {ChatOpenAI} = require("@langchain/openai");
const {Agent, OpenAIProvider, Runner, tool} = require("@openai/agents");
const z = require("zod");

const env = {...process.env, OMP_WAIT_POLICY: "PASSIVE", XDG_CACHE_HOME: path.join(dir, "cache")};
const {url, child} = await startServer(gsd, ["-m", path.join(models, "toy-target.gguf"), "-md", path.join(models, "toy-draft.gguf"), "--port", "0",
  "-t", "1", "-c", "8192", "-np", "2", "--temp", "0", "--chat-template-file", path.join(templates, "mistral-nemo.jinja")], env);
while (!(await fetch(url + "/health")).ok) await new Promise((r) => setTimeout(r, 20));

const name = "set_light";
const shape = z.object({room: z.enum(["hall", "kitchen"]), on: z.boolean()});
const parameters = {type: "object", properties: {room: {type: "string", enum: ["hall", "kitchen"]}, on: {type: "boolean"}}, required: ["room", "on"], additionalProperties: false};
const openai = new OpenAI({baseURL: url + "/v1", apiKey: "none", maxRetries: 0});
const anthropic = new Anthropic({baseURL: url, apiKey: "none", maxRetries: 0});
const question = "Light in the hall, please.";
const model = "any";
const most = 300;

const tests = {
  "openai, chat.completions.runTools": async () => {
    let called = 0;
    const run = openai.chat.completions.runTools({model, max_tokens: most, messages: [{role: "user", content: question}], tool_choice: {type: "function", function: {name}},
      parallel_tool_calls: false, tools: [{type: "function", function: {name, parameters, parse: (text) => shape.parse(JSON.parse(text)), function: () => { ++called; return "done"; }}}]});
    await run.done();
    assert.equal(called, 1);
  },
  "openai, responses, streamed, with a schema": async () => {
    const format = {type: "json_schema", name: "light", schema: parameters, strict: true};
    const stream = openai.responses.stream({model, input: question, max_output_tokens: most, text: {format}});
    let text = "";
    for await (const e of stream) if (e.type === "response.output_text.delta") text += e.delta;
    const response = await stream.finalResponse();
    assert.equal(response.output_text, text);
    shape.parse(JSON.parse(text));
  },
  "openai, responses, a tool and previous_response_id": async () => {
    const tools = [{type: "function", name, parameters, strict: true}];
    const first = await openai.responses.create({model, input: question, tools, tool_choice: "required", parallel_tool_calls: false, max_output_tokens: most});
    const call = first.output.find((i) => i.type === "function_call");
    shape.parse(JSON.parse(call.arguments));
    const second = await openai.responses.create({model, previous_response_id: first.id, input: [{type: "function_call_output", call_id: call.call_id, output: "done"}], max_output_tokens: 20});
    assert.equal(second.output.at(-1).type, "message");
    assert.ok(second.usage.input_tokens > first.output.length);
    await assert.rejects(openai.responses.create({model, previous_response_id: "resp_none", input: "x"}), OpenAI.NotFoundError);
  },
  "@anthropic-ai/sdk": async () => {
    const messages = [{role: "user", content: question}];
    const tools = [{name, input_schema: parameters}];
    const stream = anthropic.messages.stream({model, max_tokens: most, messages, tools, tool_choice: {type: "any", disable_parallel_tool_use: true}});
    const first = await stream.finalMessage();
    assert.equal(first.stop_reason, "tool_use");
    const call = first.content.find((b) => b.type === "tool_use");
    shape.parse(call.input);
    messages.push({role: "assistant", content: first.content}, {role: "user", content: [{type: "tool_result", tool_use_id: call.id, content: "done"}]});
    const second = await anthropic.messages.create({model, max_tokens: 20, messages, tools, tool_choice: {type: "none"}});
    assert.equal(second.content[0].type, "text");
    assert.ok((await anthropic.messages.countTokens({model, messages, tools})).input_tokens > 20);
    await assert.rejects(anthropic.messages.create({model, max_tokens: 20, messages: []}), Anthropic.BadRequestError);
  },
  "@openai/agents": async () => {
    let called = 0;
    const light = tool({name, description: "Sets a light", parameters: shape, execute: async () => { ++called; return "done"; }});
    const agent = new Agent({name: "lights", instructions: "You set lights.", tools: [light], 
      // An answer that is cut is an error to this package: it ends at the first of these, which stand in no call.
      modelSettings: {toolChoice: "required", parallelToolCalls: false, maxTokens: most, temperature: 1, providerData: {seed: 1, stop: [".", "`", " the", " a "]}}});
    const runner = new Runner({modelProvider: new OpenAIProvider({openAIClient: openai, useResponses: true}), tracingDisabled: true, model});
    const result = await runner.run(agent, question, {maxTurns: 3});
    assert.equal(called, 1);
    assert.equal(typeof result.finalOutput, "string");
  },
  "@langchain/openai": async () => {
    const chat = new ChatOpenAI({model, apiKey: "none", configuration: {baseURL: url + "/v1"}, maxTokens: most, maxRetries: 0})
      .bindTools([{type: "function", function: {name, parameters}}], {tool_choice: name, parallel_tool_calls: false});
    const answer = await chat.invoke(question);
    shape.parse(answer.tool_calls[0].args);
  },
};
// With the responses it sends references to items that it has from here.
for (const [title, provider] of [["@ai-sdk/openai", createOpenAI({baseURL: url + "/v1", apiKey: "none"}).responses(model)],
  ["@ai-sdk/openai-compatible", createOpenAICompatible({name: "gsd", baseURL: url + "/v1"})(model)]]) {
  tests[title] = async () => {
    let called = 0;
    const result = await ai.generateText({model: provider, prompt: question, maxOutputTokens: most, maxRetries: 0, stopWhen: ai.stepCountIs(2),
      tools: {[name]: ai.tool({inputSchema: shape, execute: async () => { ++called; return "done"; }})},
      prepareStep: ({stepNumber}) => ({toolChoice: stepNumber === 0 ? "required" : "none"})});
    assert.ok(called > 0);
    assert.equal(result.steps.length, 2);
  };
}

let failures = 0;
for (const [title, run] of Object.entries(tests)) {
  try {
    await run();
    console.log(`ok: ${title}`);
  } catch (error) {
    ++failures;
    console.log(`FAILED: ${title}\n${error.stack}`);
  }
}
child.kill();
process.exit(failures > 0 ? 1 : 0);
