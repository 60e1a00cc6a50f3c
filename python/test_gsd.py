"""Tests of the package, for unittest and pytest. GSD_MODELS: the folder of the models; GSD_PROGRAM: the program gsd."""
import gc
import os
import subprocess
import tempfile
import threading
import unittest
from html.parser import HTMLParser

import gsd

MODELS = os.environ["GSD_MODELS"]
TARGET, DRAFT = os.path.join(MODELS, "toy-target.gguf"), os.path.join(MODELS, "toy-draft.gguf")
LOAD = {"ctx_size": 512, "threads": 1, "profile": False}


class PairTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.pair = gsd.Pair(TARGET, DRAFT, parallel=3, exact=True, n_predict=40, **LOAD)

    @classmethod
    def tearDownClass(cls):
        cls.pair.close()

    def test_text_is_the_programs(self):
        for prompt, mode in [("# tar", "auto"), ("Question: how? \u00e4\u4f60", "graph")]:
            command = [os.environ["GSD_PROGRAM"], "generate", "-m", TARGET, "-d", DRAFT, "-p", prompt, "-n", "40", "--exact"]
            command += ["--mode", mode, "--no-profile", "--no-echo", "-t", "1", "-c", "512"]
            expected = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
            text = self.pair.generate(prompt, mode=mode)
            self.assertEqual(text.encode(), expected)
            self.assertEqual("".join(self.pair.stream(prompt, mode=mode)), text)

    def test_text_tells_how_it_came_about(self):
        text = self.pair.generate("# tar", ignore_eos=True)
        self.assertEqual(text.finish_reason, "length")
        self.assertEqual(len(text.tokens), 40)
        self.assertEqual(b"".join(self.pair.piece(t) for t in text.tokens).decode(), text)
        self.assertEqual(text.stats["emitted"], 40)
        self.assertLessEqual(text.stats["steps"], 40)
        self.assertGreater(text.stats["verify_ms"], 0)

    def test_many_prompts_are_answered_as_alone(self):
        prompts = ["# tar", "# ls", "# git", "Question:", "# cp"]
        together = self.pair.generate_all(prompts, temperature=0.7, seed=5)
        self.assertEqual(together, [self.pair.generate(p, temperature=0.7, seed=5) for p in prompts])
        self.assertEqual(self.pair.generate_all([]), [])

    def test_tokens_are_a_prompt_too(self):
        tokens = self.pair.tokenize("# tar", add_begin=True)
        self.assertEqual(self.pair.generate(tokens), self.pair.generate("# tar"))

    def test_stop(self):
        text = self.pair.generate("# tar")
        cut = self.pair.generate("# tar", stop=["\x01", text[10:14]])
        self.assertEqual(cut, text[: text.index(text[10:14])])
        self.assertEqual(cut.finish_reason, "stopped")

    def test_several_sessions_at_once(self):
        with self.pair.session() as a, self.pair.session(mode="plain") as b:
            a.prompt("# tar")
            b.prompt("# tar")
            self.assertEqual(a.finish_reason, "none")
            while not (a.finished and b.finished):
                gsd.step([a, b])
            self.assertEqual(a.text(), b.text())
            self.assertEqual(b.stats["accepted"], 0)

    def test_a_stream_that_is_left_gives_its_slot_back(self):
        for _ in range(5):
            for _piece in self.pair.stream("# tar"):
                break
        gc.collect()
        self.assertEqual(len(self.pair.generate_all(["a", "b", "c"], n_predict=2)), 3)

    def test_logits(self):
        with self.pair.session(logits=True, n_predict=6, ignore_eos=True) as s:
            s.prompt("# tar")
            seen = 0
            while not s.finished:
                gsd.step([s])
                rows = s.logits()
                for row, token in zip(rows, s.tokens[seen:]):
                    values = list(row)
                    self.assertEqual(len(values), self.pair.n_vocab)
                    self.assertEqual(values.index(max(values)), token)
                seen += len(rows)
            self.assertEqual(seen, 6)

    def test_a_trace_draws_itself(self):
        text = self.pair.generate("# <b>&\n", trace=True, ignore_eos=True, mode="graph")
        trace = text.trace
        self.assertIsInstance(trace, gsd.Trace)
        self.assertEqual(len(trace), text.stats["steps"])
        self.assertEqual([t["token"] for s in trace for t in s["emitted"]], text.tokens)
        self.assertEqual(sum(len(s["path"]) for s in trace), text.stats["accepted"])
        drawn = trace._repr_html_()
        self.assertIn("%d steps, 40 tokens emitted" % len(trace), drawn)
        # Every box that is opened is closed, and what a model says is text.
        parser, open_tags, boxes = HTMLParser(), [], []
        parser.handle_starttag = lambda tag, attributes: (open_tags.append(tag), boxes.append(tag == "span"))
        parser.handle_endtag = lambda tag: self.assertEqual(open_tags.pop(), tag)
        parser.feed(drawn)
        self.assertEqual(open_tags, [])
        nodes = sum(len(s["tree"]) + len(s["emitted"]) for s in trace)
        self.assertEqual(sum(boxes), nodes + 5)
        hostile = gsd.Trace([{**trace[0], "emitted": [{**trace[0]["emitted"][0], "text": "<script>'\"", "margin": None}]}])
        self.assertNotIn("<script", hostile._repr_html_())
        self.assertEqual(gsd.Trace()._repr_html_().count("<tr>"), 0)
        self.assertIsNone(self.pair.generate("# tar").trace)
        with self.pair.session() as s, self.assertRaisesRegex(gsd.Error, "trace"):
            s.trace

    def test_a_trace_is_a_record(self):
        with tempfile.TemporaryDirectory() as folder:
            record, page = os.path.join(folder, "run.jsonl"), os.path.join(folder, "run.html")
            self.pair.generate("# tar", trace=True).trace.save(record)
            subprocess.run([os.environ["GSD_PROGRAM"], "trace", record, "-o", page], check=True, stderr=subprocess.DEVNULL)
            self.assertGreater(os.path.getsize(page), 1000)

    def test_cancel_from_a_thread(self):
        with self.pair.session(n_predict=-1, ignore_eos=True) as s:
            s.prompt("# tar")
            pieces = iter(s)
            next(pieces)
            thread = threading.Thread(target=s.cancel)
            thread.start()
            thread.join()
            self.assertLessEqual(sum(1 for _ in pieces), 1)
            self.assertEqual(s.finish_reason, "cancelled")

    def test_errors(self):
        with self.assertRaises(gsd.Error) as caught:
            gsd.Pair("/none.gguf", profile=False)
        self.assertEqual(caught.exception.code, 3)
        self.assertIn("/none.gguf", str(caught.exception))
        for parameters in [{"colour": "red"}, {"mode": "fast"}, {"temperature": -1}, {"top_p": 0}, {"stop": "a\0b"}]:
            with self.assertRaises(gsd.Error) as caught:
                self.pair.generate("x", **parameters)
            self.assertEqual(caught.exception.code, 2, parameters)
        with self.assertRaises(gsd.Error):
            self.pair.generate_all(["x", "y" * 100000])  # and no slot is lost by it
        self.assertEqual(len(self.pair.generate_all(["a", "b", "c"], n_predict=2)), 3)

    def test_what_is_closed_says_so(self):
        pair = gsd.Pair(TARGET, DRAFT, **LOAD)
        session = pair.session(n_predict=2)
        pair.close()
        pair.close()
        session.prompt("# tar")
        self.assertNotEqual("".join(session), "")
        session.close()
        for call in [pair.session, session.take, lambda: session.prompt("x"), lambda: gsd.step([session])]:
            with self.assertRaisesRegex(gsd.Error, "closed"):
                call()

    def test_version(self):
        self.assertRegex(gsd.version(), r"^\d+\.\d+\.\d+$")


if __name__ == "__main__":
    unittest.main()
