"""Layers on other devices give the text that the CPU gives, up to near-ties.

Usage: devices_test.py rpc|vulkan|bench GSD MODELS_DIR PREFIX ZOO FOLDER_FOR_FILES

rpc: processes of ggml-rpc-server on loopback, one of them behind a line with a delay; one is killed in the middle of a
text. vulkan: Mesa's driver, which computes on the CPU. bench: no test, but what speculation gains with the target on another
machine, by the time that a packet takes there and back. Exit code 77: what is needed is not installed."""
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

kind, gsd, models, prefix, zoo, folder = sys.argv[1:7]
lib = os.path.join(os.path.abspath(prefix), "usr/lib/x86_64-linux-gnu")
NEAR_TIE = 0.15  # logits; what another order of sums in Q8_0 products moves one by (tests/model_test.cpp)
failures = 0
started = []


def skip(why):
    print("SKIPPED:", why)
    sys.exit(77)


def expect(right, what):
    global failures
    if not right:
        failures += 1
        print("FAILED:", what)


extra = {}  # of the environment


def environment():
    return dict(os.environ, XDG_CACHE_HOME=os.path.join(folder, "cache"), OMP_WAIT_POLICY="PASSIVE", **extra)


def run(*words, seconds=300):
    return subprocess.run([gsd, *words], env=environment(), capture_output=True, text=True, timeout=seconds)


def pair(name):
    end = {"toy": ".gguf", "gsd": "-q8_0.gguf"}[name]
    return ["-m", os.path.join(models, name + "-target" + end), "-md", os.path.join(models, name + "-draft" + end)]


def generate(files, *words, n=48, prompt="# tar\n\n> Archiving utility"):
    """Tokens and margins, and what was said on stderr."""
    record = os.path.join(folder, "record.jsonl")
    done = run("generate", *files, "-p", prompt, "-n", str(n), "-t", "1", "-c", "256", "--ignore-eos", "--no-profile",
               "--record", record, *words)
    if done.returncode != 0:
        return [], [], f"{done.returncode}: {done.stderr}"
    steps = [json.loads(line) for line in open(record)]
    emitted = [e for s in steps if "emitted" in s for e in s["emitted"]]
    return [e["token"] for e in emitted], [e["margin"] for e in emitted], done.stderr


def compare(files, what, *words, near=NEAR_TIE, against=("-dev", "none"), modes=("plain", "chain", "tree", "graph", "auto"), **more):
    """Every mode on the devices against plain decoding on the CPU, or as `against` says."""
    tokens, margins, said = generate(files, "--mode", "plain", *against, **more)
    expect(tokens, f"{what}, to compare with: {said}")
    ties = 0
    for mode in modes:
        got, _, said = generate(files, "--mode", mode, *words, **more)
        expect(len(got) == len(tokens), f"{what}, {mode}: {said}")
        at = next((i for i, (a, b) in enumerate(zip(tokens, got)) if a != b), None)
        if at is not None:
            ties += 1
            expect(margins[at] < near, f"{what}, {mode}: another token at {at}, where the margin is {margins[at]:.3f}")
    print(f"{what}: {len(modes)} modes, {len(tokens)} tokens, {ties} near-ties")


class Line:
    """A port that leads to another one, with a delay in each direction."""

    def __init__(self, to, ms):
        self.to, self.delay = to, ms / 1000
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.ends = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near, _ = self.listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                near.close()
                continue
            for s in (near, far):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for a, b in ((near, far), (far, near)):
                self.carry(a, b)

    def carry(self, source, sink):
        waiting, there = [], threading.Condition()

        def read():
            while True:
                try:
                    data = source.recv(1 << 18)
                except OSError:
                    data = b""
                with there:
                    waiting.append((time.monotonic() + self.delay, data))
                    there.notify()
                if not data:
                    return

        def write():
            while True:
                with there:
                    while not waiting:
                        there.wait()
                    due, data = waiting.pop(0)
                time.sleep(max(0, due - time.monotonic()))
                try:
                    if not data:
                        sink.shutdown(socket.SHUT_RDWR)
                        return
                    sink.sendall(data)
                except OSError:
                    return

        for job in (read, write):
            threading.Thread(target=job, daemon=True).start()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def rpc_server(port):
    tool = os.path.join(prefix, "usr/bin/ggml-rpc-server")
    p = subprocess.Popen([tool, "-t", "1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started.append(p)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return p
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("ggml-rpc-server does not start")


def stop(p, how=signal.SIGKILL):
    if p.poll() is None:
        p.send_signal(how)
    p.wait()


def post(url, body):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=60) as r:
            return r.status, json.load(r)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


def dying_host(ports, servers):
    print("== a host that dies")
    record = os.path.join(folder, "dying.jsonl")
    address = ",".join(f"127.0.0.1:{p}" for p in ports)
    p = subprocess.Popen([gsd, "generate", *pair("gsd"), "--rpc", address, "-p", "x", "-n", "100000", "--ignore-eos", "-c", "100000",
                          "--no-profile", "-t", "1"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdout.read(100)  # it is in the middle of its text
    stop(servers[1])
    _, said = p.communicate(timeout=60)
    expect(p.returncode == 9, f"exit code {p.returncode} instead of 9: {said}")
    expect(f"127.0.0.1:{ports[1]}".encode() in said and b"broke" in said, f"no sentence: {said}")
    servers[1] = rpc_server(ports[1])

    requests, answered = os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl")
    with open(requests, "w") as f:
        for i in range(40):
            body = {"prompt": f"# tool {i}", "max_tokens": 48, "temperature": 0}
            f.write(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}) + "\n")
    batch = [gsd, "batch", requests, answered, *pair("gsd"), "--rpc", address, "-np", "2", "-c", "1024", "--no-profile", "-t", "1"]
    p = subprocess.Popen(batch, env=environment(), stderr=subprocess.PIPE)
    while p.poll() is None and (not os.path.exists(answered) or open(answered).read().count("\n") < 3):
        time.sleep(0.02)
    stop(servers[1])
    _, said = p.communicate(timeout=60)
    first = [json.loads(line) for line in open(answered)]
    expect(p.returncode == 9 and b"goes on" in said, f"exit code {p.returncode} of a batch: {said}")
    expect(3 <= len(first) < 40 and all(a["response"]["status_code"] == 200 for a in first), f"{len(first)} answers, or failures among them")
    servers[1] = rpc_server(ports[1])
    said = subprocess.run(batch, env=environment(), capture_output=True, timeout=120)
    every = [json.loads(line) for line in open(answered)]
    expect(said.returncode == 0 and sorted(int(a["custom_id"]) for a in every) == list(range(40)), f"the batch did not go on: {said.stderr}")

    err = open(os.path.join(folder, "serve.err"), "w+")
    serve = subprocess.Popen([gsd, "serve", *pair("gsd"), "--rpc", address, "--port", "0", "-np", "2", "-c", "4096", "--no-profile",
                              "-t", "1"], env=environment(), stderr=err)
    started.append(serve)

    def url(times):
        for _ in range(600):
            found = re.findall(r"serving .* at (http://\S+)", open(err.name).read())
            if len(found) >= times:
                return found[-1]
            time.sleep(0.1)
        raise RuntimeError("the server does not start: " + open(err.name).read())

    first = url(1)
    body = {"prompt": "# tar", "max_tokens": 24, "temperature": 0}
    code, before = post(first + "/v1/completions", body)
    expect(code == 200, f"{code}: {before}")
    answers = []
    long = threading.Thread(target=lambda: answers.append(post(first + "/v1/completions", dict(body, max_tokens=1900, ignore_eos=True))))
    long.start()
    time.sleep(1)
    stop(servers[1])
    long.join()
    code, said = answers[0]
    expect(code == 500 and "broke" in json.dumps(said), f"the request that was being answered: {code} {said}")
    code, said = post(first + "/v1/completions", body)
    expect(code == 500 and "broke" in json.dumps(said), f"a request while the host is away: {code} {said}")
    servers[1] = rpc_server(ports[1])
    expect(url(2) == first, "the server came back elsewhere")
    code, after = post(first + "/v1/completions", body)
    expect(code == 200 and after["choices"] == before["choices"], f"after the host came back: {code} {after}, before {before}")
    stop(serve, signal.SIGTERM)
    expect(serve.returncode == 0, f"exit code {serve.returncode} of the server")


def test_rpc():
    if not os.path.exists(os.path.join(lib, "ggml/backends0/libggml-rpc.so")):
        skip("no RPC backend of ggml; deps/setup.sh --group rpc fetches it")
    ports = [free_port(), free_port()]
    servers = [rpc_server(p) for p in ports]
    address = ",".join(f"127.0.0.1:{p}" for p in ports)

    print("== what is said")
    listed = run("generate", "--rpc", address, "--list-devices")
    for i, port in enumerate(ports):
        expect(re.search(rf"RPC{i}: .*{port}.* MiB free", listed.stdout), f"--list-devices: {listed.stdout} {listed.stderr}")
    expect(listed.stderr.count("no password") == 1, "the warning is to be said once")
    rpc = ["--rpc", address]
    tried = ["generate", *pair("toy"), "-p", "x", "-n", "1", "--no-profile", "-t", "1"]
    for words, code, sentence in (
            (["--rpc", f"127.0.0.1:{free_port()}"], 9, "Nobody answers at"),
            (["--rpc", "nonsense"], 2, "HOST:PORT"),
            (rpc + ["-dev", "RPC7"], 2, r"no device 'RPC7'; there is RPC0 .*RPC1 "),
            (rpc + ["-dev", "RPC1,RPC1"], 2, "named twice"),
            (rpc + ["-ts", "1,1,1"], 2, "shares for 3 devices"),
            (rpc + ["-sm", "none", "-mg", "2"], 2, "from 0 to 1")):
        done = run(*tried, *words)
        expect(done.returncode == code and re.search(sentence, done.stderr), f"{words}: {done.returncode} {done.stderr}")

    print("== profiles")
    for words, came in ((rpc, "measured"), (rpc, "cached"), (rpc + ["-ts", "3,1"], "measured"), (rpc + ["-dev", "RPC1"], "measured"),
                        ([], "measured"), (["-dev", "none"], "cached")):
        done = run("inspect", *pair("toy"), "-t", "1", "--json", *words)
        seen = json.loads(done.stdout) if done.returncode == 0 else {"profile": done.stderr}
        expect(seen["profile"] == came, f"{words}: the profile was {seen['profile']} instead of {came}")
        devices = {0: [], 2: ["RPC0", "RPC1"], 4: ["RPC0", "RPC1"]}[len(words)] if words not in (rpc + ["-dev", "RPC1"], ["-dev", "none"]) else words[3:]
        expect(seen.get("target", {}).get("devices") == devices, f"{words}: on {seen.get('target', {}).get('devices')}")

    print("== texts")
    compare(pair("toy"), "one host", *rpc, "-dev", "RPC0")
    compare(pair("toy"), "two hosts, 3 to 1", *rpc, "-ts", "3,1")
    compare(pair("toy"), "some layers, and the draft there too", *rpc, "-ngl", "2", "-ngld", "1")
    compare(pair("toy"), "draft on one, target on the other", *rpc, "-dev", "RPC0", "-devd", "RPC1", modes=("chain", "graph", "auto"))
    compare(pair("gsd"), "the bundled pair", *rpc, n=32)
    said = generate(pair("toy"), "--exact", *rpc, n=4)[2]
    expect("cannot promise" in said and "layers on RPC0" in said, f"--exact promises too much: {said}")
    line = Line(ports[1], 1)
    compare(pair("toy"), "two hosts, one behind a delay of 1 ms", "--rpc", f"127.0.0.1:{ports[0]},127.0.0.1:{line.port}", n=24,
            modes=("chain", "auto"))
    dying_host(ports, servers)


def bench_rpc():
    rpc_server(port := free_port())
    for ms in (0, 1, 10):
        to = port if ms == 0 else Line(port, ms / 2).port
        done = run("bench", *pair("gsd"), "--rpc", f"127.0.0.1:{to}", "--prompts", os.path.join(models, "prompts/prompts.jsonl"),
                   "--per-kind", "1", "--modes", "plain,chain,graph,auto", "-n", "64", "--repetitions", "1", "-t", "1", "-c", "512",
                   "--ignore-eos", seconds=600)
        print(f"== {ms} ms\n{done.stdout}{done.stderr if done.returncode else ''}", flush=True)


def test_vulkan():
    driver = os.path.join(lib, "libvulkan_lvp.so")
    if not os.path.exists(os.path.join(lib, "ggml/backends0/libggml-vulkan.so")) or not os.path.exists(driver):
        skip("no Vulkan backend of ggml, or no Mesa; deps/setup.sh --group vulkan --group mesa fetches them")
    manifest = os.path.join(folder, "driver.json")
    with open(manifest, "w") as f:
        json.dump({"file_format_version": "1.0.1", "ICD": {"api_version": "1.4.0", "library_path": driver}}, f)
    # A driver that computes on the CPU is taken only by its number.
    extra.update(VK_DRIVER_FILES=manifest, GGML_VK_VISIBLE_DEVICES="0", LD_LIBRARY_PATH=lib)
    listed = run("generate", "--list-devices").stdout
    expect(re.search("Vulkan0: llvmpipe", listed), f"--list-devices: {listed}")
    expect("Vulkan0" in run("--version").stdout, "--version does not name the device")

    print("== the bundled toy pair")
    compare(pair("toy"), "all layers", "-ngl", "99", "-ngld", "99")
    compare(pair("toy"), "two layers, the rest by our kernels on the CPU", "-ngl", "2", modes=("plain", "graph"))
    compare(pair("toy"), "the draft alone", "-devd", "Vulkan0", modes=("chain", "graph"))
    compare(pair("toy"), "one device for everything", "-ngl", "99", "-sm", "none", "-mg", "0", modes=("graph",))
    for k, v in (("f32", "f32"), ("q8_0", "q8_0")):
        kv = ["-ctk", k, "-ctv", v]
        compare(pair("toy"), f"a cache of {k} and {v}", "-ngl", "99", *kv, against=["-dev", "none", *kv], modes=("plain", "graph"))
    said = generate(pair("toy"), "--exact", "-ngl", "99", n=4)[2]
    expect("cannot promise" in said and "layers on Vulkan0" in said, f"--exact promises too much: {said}")

    print("== other kinds")
    files = os.path.join(folder, "zoo")
    subprocess.run([zoo, "write", files, "gemma3", "qwen35"], check=True, stdout=subprocess.DEVNULL)
    for name in ("gemma3", "qwen35"):  # sliding windows; a hybrid
        f = ["-m", os.path.join(files, name + ".gguf"), "-md", os.path.join(files, name + ".draft.gguf")]
        compare(f, name, "-ngl", "99", "-ngld", "99", modes=("chain", "graph"), n=24)



shutil.rmtree(folder, ignore_errors=True)
os.makedirs(folder)
try:
    {"rpc": test_rpc, "vulkan": test_vulkan, "bench": bench_rpc}[kind]()
finally:
    for p in started:
        stop(p)
print("all passed" if failures == 0 else f"{failures} failed")
sys.exit(failures > 0)
