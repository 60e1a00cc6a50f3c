// Starts gsd serve for the tests that drive it from outside.
import {spawn} from "node:child_process";

// Resolves to {url, child, log} when the server listens; rejects with what it said if it ends instead.
export async function startServer(gsd, args, env) {
  const child = spawn(gsd, ["serve", ...args], {env, stdio: ["ignore", "ignore", "pipe"]});
  let log = "";
  const url = await new Promise((resolve, reject) => {
    child.stderr.on("data", (text) => {
      log += text;
      const listening = log.match(/serving \S+ at (http:\S+)/);
      if (listening) resolve(listening[1]);
    });
    child.on("exit", (code) => reject(new Error(`the server ended with ${code}: ${log}`)));
  });
  return {url, child, log: () => log};
}
