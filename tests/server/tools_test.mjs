// The bundled target, which knows nothing of tools, is made to call them by the grammar: valid calls in every format.
// Usage: node tools_test.mjs GSD MODELS TEMPLATES
import assert from "node:assert/strict";
import { spawn } from "node:child_process";

const [gsd, models, templates] = process.argv.slice(2);
const families = ["qwen3", "qwen3-coder", "glm4", "mistral-nemo", "lfm2", "gemma4", "chatml"];
const tools = [
  {
    type: "function",
    function: {
      name: "set_light",
      description: "Sets a light",
      parameters: {
        type: "object",
        properties: { room: { type: "string", enum: ["hall", "kitchen"] }, level: { type: "integer" }, on: { type: "boolean" } },
        required: ["room", "level", "on"],
      },
    },
  },
];

async function serve(...flags) {
  const child = spawn(gsd, ["serve", "-m", `${models}/toy-target.gguf`, "-md", `${models}/toy-draft.gguf`, "-t", "1", "--port", "0", ...flags], { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  const port = await new Promise((resolve, reject) => {
    child.stderr.on("data", (d) => {
      log += d;
      const at = log.match(/serving .* at http:\/\/[^:]*:(\d+)/);
      if (at) resolve(at[1]);
    });
    child.on("exit", () => reject(new Error(log)));
  });
  const url = `http://127.0.0.1:${port}`;
  while (!(await fetch(`${url}/health`)).ok) await new Promise((r) => setTimeout(r, 20)); // until requests are taken
  return { child, url };
}

for (const family of families) {
  const { child, url } = await serve("--chat-template-file", `${templates}/${family}.jinja`);
  try {
    for (const mode of ["plain", "graph"]) {
      const answer = await (await fetch(`${url}/v1/chat/completions`, {
        method: "POST",
        body: JSON.stringify({ messages: [{ role: "user", content: "Light in the hall, please." }], tools, tool_choice: "required",
                               parallel_tool_calls: false, temperature: 0, max_tokens: 700,
                               chat_template_kwargs: { enable_thinking: false }, speculative: { mode } }),
      })).json();
      const [choice] = answer.choices ?? assert.fail(JSON.stringify(answer));
      assert.equal(choice.finish_reason, "tool_calls", `${family} ${mode}: ${JSON.stringify(choice)}`);
      const [call] = choice.message.tool_calls;
      assert.equal(call.function.name, "set_light");
      const args = JSON.parse(call.function.arguments);
      assert.ok(["hall", "kitchen"].includes(args.room), `${family}: ${call.function.arguments}`);
      assert.ok(Number.isInteger(args.level) && typeof args.on === "boolean", `${family}: ${call.function.arguments}`);
    }
    console.log(`${family}: ok`);
  } finally {
    child.kill();
  }
}

const post = async (url, body) => (await fetch(url, { method: "POST", body: JSON.stringify(body) })).json();
const messages = [{ role: "user", content: "Hi" }];

// The flags: a template of one's own with values of one's own, a format of calls, and what becomes of reasoning.
{
  const { child, url } = await serve("--chat-template", "{{ city }}: {{ messages[0].content }}", "--chat-template-kwargs", '{"city": "Oslo"}',
                                     "--tool-format", "glm");
  try {
    assert.equal((await post(`${url}/apply-template`, { messages })).prompt, "Oslo: Hi");
    assert.equal((await (await fetch(`${url}/props`)).json()).tool_format, "glm");
  } finally {
    child.kill();
  }
}
for (const [format, reasoning, content] of [["auto", "a", "b"], ["none", undefined, "<think>a</think>b"]]) {
  const { child, url } = await serve("--chat-template-file", `${templates}/qwen3.jinja`, "--reasoning-format", format);
  try {
    const answer = await post(`${url}/v1/chat/completions`, { messages, grammar: 'root ::= "<think>a</think>b"' });
    const { message } = answer.choices?.[0] ?? assert.fail(JSON.stringify(answer));
    assert.deepEqual([message.reasoning_content, message.content], [reasoning, content], `--reasoning-format ${format}`);
  } finally {
    child.kill();
  }
}
console.log("flags: ok");
