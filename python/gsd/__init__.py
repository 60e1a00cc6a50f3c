"""Graph-structured speculative decoding of GGUF models: the target's own text, faster.

    import gsd

    pair = gsd.Pair("target.gguf", "draft.gguf")
    print(pair.generate("# tar", n_predict=100))
    for piece in pair.stream("# tar", mode="graph", temperature=0.7, seed=1):
        print(piece, end="", flush=True)

Parameters have the names of the program's flags (docs/guide.md) with underscores: those of a pair (ctx_size, threads,
exact, parallel, ...) are given to Pair, those of a session (n_predict, stop, mode, depth, temperature, ...) to what opens
one, or to Pair as defaults for all of its sessions. A list sets a parameter several times (stop, lookup).

Any thread may call anything; calls on one pair wait for each other, all but Session.cancel().
"""
import json

from ._library import load
from ._trace import Trace

__all__ = ["Error", "Pair", "Session", "Text", "Trace", "step", "version"]


class Error(Exception):
    """What failed: a sentence, and `code`, which is the program's exit code (2 = usage, 3 = model file, ...)."""

    def __init__(self, code, sentence):
        super().__init__(sentence)
        self.code = code


def _text(pointer):
    return load()[0].string(pointer).decode("utf-8", "replace")


def _check(code):
    if code != 0:
        raise Error(code, _text(load()[1].gsd_error()))


def version():
    """Version of the library."""
    return _text(load()[1].gsd_version())


class _Options:
    """gsd_options with these parameters, for a `with` block."""

    def __init__(self, parameters):
        self._parameters = parameters

    def __enter__(self):
        ffi, lib, abi = load()
        out = ffi.new("gsd_options**")
        _check(lib.gsd_options_new(abi, out))
        self.handle = out[0]
        try:
            for name, values in self._parameters.items():
                for value in values if isinstance(values, (list, tuple)) else [values]:
                    self._set(name.replace("_", "-"), value)
        except Exception:
            self.__exit__()
            raise
        return self.handle

    def _set(self, flag, value):
        if value is None:
            return
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if "\0" in text:
            raise Error(2, "The parameter %s holds a NUL." % flag)
        _check(load()[1].gsd_set(self.handle, flag.encode(), text.encode()))

    def __exit__(self, *_):
        load()[1].gsd_options_close(self.handle)


class Text(str):
    """A generated text, with how it came about: `tokens`, `stats` (a dict), `finish_reason`, and with trace=True `trace`."""

    trace = None
    tokens = ()
    stats = {}
    finish_reason = ""


class _Closing:
    """Closed by close(), at the end of a `with` block, or with its last reference."""

    _handle = None

    def close(self):
        if self._handle is not None:
            self._release(self._handle)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        self.close()


class Pair(_Closing):
    """A target and what drafts for it. Closed by close(), at the end of a `with` block, or with its last reference."""

    def __init__(self, target, draft=None, **parameters):
        ffi, self._lib, _ = load()
        out = ffi.new("gsd_pair**")
        with _Options({"model": target, "draft": draft, **parameters}) as options:
            _check(self._lib.gsd_open(options, out))
        self._handle, self._release = out[0], self._lib.gsd_close
        self._parallel = int(parameters.get("parallel", 1))
        self._defaults = parameters  # of which a session looks at its own

    def session(self, **parameters):
        """Opens a session; at most `parallel` of a pair are open at once."""
        return Session(self, {**self._defaults, **parameters})

    def stream(self, prompt, **parameters):
        """Yields the text that continues `prompt` (text, or a list of tokens) piece by piece. Ending early ends it."""
        with self.session(**parameters) as session:
            session.prompt(prompt)
            yield from session

    def generate(self, prompt, **parameters):
        """The text that continues `prompt`, as a Text."""
        return self.generate_all([prompt], **parameters)[0]

    def generate_all(self, prompts, **parameters):
        """The texts that continue the prompts, `parallel` of them at the same time."""
        prompts = list(prompts)
        out = [None] * len(prompts)
        waiting = list(range(len(prompts)))[::-1]
        running = {}
        try:
            while waiting or running:
                while waiting and len(running) < self._parallel:
                    i = waiting.pop()
                    running[i] = self.session(**parameters)  # to be closed, also if the prompt is refused
                    running[i].prompt(prompts[i])
                step(running.values())
                for i in [i for i, s in running.items() if s.finished]:
                    session = running.pop(i)
                    out[i] = session.text()
                    session.close()
        finally:
            for session in running.values():
                session.close()
        return out

    def tokenize(self, text, add_begin=False, parse_control=False):
        """The tokens of a text. `parse_control`: names of control tokens become these tokens."""
        ffi, lib, _ = load()
        data = text.encode("utf-8", "surrogatepass")
        flags = (lib.GSD_ADD_BEGIN if add_begin else 0) | (lib.GSD_PARSE_CONTROL if parse_control else 0)
        n, room = ffi.new("size_t*"), len(data) + 8
        while True:
            tokens = ffi.new("gsd_token[]", room)
            _check(lib.gsd_tokenize(self._handle, data, len(data), flags, tokens, room, n))
            if n[0] <= room:
                return list(tokens[0 : n[0]])
            room = n[0]

    def piece(self, token):
        """The bytes of one token, which may be a part of a character."""
        ffi, lib, _ = load()
        n, room = ffi.new("size_t*"), 64
        while True:
            data = ffi.new("char[]", room)
            _check(lib.gsd_piece(self._handle, token, data, room, n))
            if n[0] <= room:
                return ffi.buffer(data, n[0])[:]
            room = n[0]

    @property
    def n_vocab(self):
        return self._lib.gsd_n_vocab(self._handle)

    @property
    def n_ctx(self):
        return self._lib.gsd_n_ctx(self._handle)


class Session(_Closing):
    """One text that is being generated. Iterating steps it and yields the text piece by piece; step() advances several
    together. Made by Pair.session()."""

    def __init__(self, pair, parameters):
        self._ffi, self._lib, _ = load()
        self._pair = pair
        self._text, self._tokens, self._trace = [], [], b""
        self._traced = str(parameters.get("trace")).lower() == "true"
        out = self._ffi.new("gsd_session**")
        with _Options(parameters) as options:
            _check(self._lib.gsd_session_open(pair._handle, options, out))
        self._handle, self._release = out[0], self._lib.gsd_session_close

    def prompt(self, prompt):
        """Begins anew after this text, or list of tokens."""
        if isinstance(prompt, str):
            data = prompt.encode("utf-8", "surrogatepass")
            _check(self._lib.gsd_prompt(self._handle, data, len(data)))
        else:
            tokens = self._ffi.new("gsd_token[]", list(prompt))
            _check(self._lib.gsd_prompt_tokens(self._handle, tokens, len(tokens)))
        self._text, self._tokens, self._trace = [], [], b""

    def __iter__(self):
        while not self.finished:
            step([self])
            piece = self.take()
            if piece:
                yield piece

    def take(self):
        """What was generated since the last call; whole characters."""
        pieces, data, n = [], self._ffi.new("char[]", 4096), self._ffi.new("size_t*")
        while True:
            _check(self._lib.gsd_take_text(self._handle, data, 4096, n))
            if n[0] == 0:
                break
            pieces.append(self._ffi.buffer(data, n[0])[:].decode("utf-8"))
        piece = "".join(pieces)
        self._text.append(piece)
        return piece

    def text(self):
        """All that was generated so far, as a Text."""
        self.take()
        out = Text("".join(self._text))
        out.tokens, out.stats, out.finish_reason = self.tokens, self.stats, self.finish_reason
        if self._traced:
            out.trace = self.trace
        return out

    @property
    def trace(self):
        """What the steps since the prompt proposed and the target took, as a Trace; needs trace=True."""
        data, n, pieces = self._ffi.new("char[]", 1 << 16), self._ffi.new("size_t*"), [self._trace]
        while True:
            _check(self._lib.gsd_take_trace(self._handle, data, 1 << 16, n))
            if n[0] == 0:
                break
            pieces.append(self._ffi.buffer(data, n[0])[:])
        self._trace = b"".join(pieces)
        return Trace(json.loads(line) for line in self._trace.splitlines())

    @property
    def tokens(self):
        """The tokens generated so far."""
        tokens, n = self._ffi.new("gsd_token[]", 256), self._ffi.new("size_t*")
        while True:
            _check(self._lib.gsd_take_tokens(self._handle, tokens, 256, n))
            if n[0] == 0:
                return list(self._tokens)
            self._tokens.extend(tokens[0 : n[0]])

    @property
    def finished(self):
        return self._lib.gsd_finished(self._handle) != 0

    @property
    def finish_reason(self):
        return _text(self._lib.gsd_finish_reason(self._handle))

    @property
    def prompt_left(self):
        """Tokens of the prompt that are still to be taken in."""
        return self._lib.gsd_prompt_left(self._handle)

    @property
    def stats(self):
        """Sums over the session's steps: steps, emitted, drafted, accepted, verify_ms, ..."""
        out, value, i = {}, self._ffi.new("double*"), 0
        while True:
            name = self._lib.gsd_statistic_name(i)
            if name == self._ffi.NULL:
                return out
            _check(self._lib.gsd_statistic(self._handle, name, value))
            out[_text(name)] = value[0] if _text(name).endswith("_ms") else int(value[0])
            i += 1

    def logits(self):
        """The target's logits behind each token of the last step, needs logits=True: a numpy array [tokens, n_vocab], or
        without numpy a list of memoryviews."""
        rows, row, size = [], self._ffi.new("const float**"), 4 * self._pair.n_vocab
        for i in range(self._lib.gsd_n_last(self._handle)):
            _check(self._lib.gsd_logits(self._handle, i, row))
            rows.append(self._ffi.buffer(row[0], size)[:])
        try:
            import numpy
        except ImportError:
            return [memoryview(r).cast("f") for r in rows]
        return numpy.frombuffer(b"".join(rows), dtype=numpy.float32).reshape(len(rows), -1)

    def cancel(self):
        """Ends it with the step in progress; for any thread."""
        _check(self._lib.gsd_cancel(self._handle))


def step(sessions):
    """Advances the sessions of one pair together: each that is not finished gets at least one token, finishes, or takes in
    a piece of its prompt."""
    ffi, lib, _ = load()
    handles = [s._handle for s in sessions]
    _check(lib.gsd_step(ffi.new("gsd_session*[]", handles), len(handles)))
