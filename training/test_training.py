"""Tests of the recipe: python3 test_training.py. They need PyTorch and no corpus."""

import argparse
import contextlib
import json
import signal
import tempfile
import unittest
import unittest.mock
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer

import cache
import corpus
import dflash
import evaluate
import export
import generate
import grow
import import_gguf
import losses
import model as models
import tokenizer as tokenizers
import train
from batches import Batches

CONFIG = models.Config(vocab=97, width=64, layers=2, heads=2, ff=96, context=64)


def trained_looking(seed: int = 0) -> models.Llama:
    """Random weights large enough that each of them matters to the logits."""
    torch.manual_seed(seed)
    model = models.Llama(CONFIG)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.2 + (1 if p.dim() == 1 else 0))
    return model


class GrowTest(unittest.TestCase):
    def setUp(self):
        self.small = trained_looking()
        self.ids = torch.randint(0, CONFIG.vocab, (3, 40))

    def assert_same_logits(self, big):
        torch.testing.assert_close(big(self.ids), self.small(self.ids), rtol=1e-4, atol=1e-4)

    def test_double_width_keeps_the_logits(self):
        big = grow.double_width(self.small, noise=0.5, seed=1)
        self.assertEqual((big.config.width, big.config.heads, big.config.ff), (128, 4, 192))
        self.assert_same_logits(big)

    def test_deepen_keeps_the_logits(self):
        for layers in (2, 3, 5):
            self.assert_same_logits(grow.deepen(self.small, layers))

    def test_grown_model_uses_new_parameters_after_a_step(self):
        big = grow.deepen(grow.double_width(self.small, noise=0.5, seed=1), 4)
        self.assert_same_logits(big)
        losses.cross_entropy(big, self.ids).backward()
        half = big.blocks[0].gate.weight.grad
        self.assertGreater((half[:96] - half[96:]).abs().max().item(), 1e-3 * half.abs().max().item())
        self.assertGreater(big.blocks[1].down.weight.grad.abs().max().item(), 0)


class LossTest(unittest.TestCase):
    def test_cross_entropy_equals_pytorch(self):
        ids = torch.randint(0, CONFIG.vocab, (2, 33))
        a, b = trained_looking(), trained_looking()
        loss = losses.cross_entropy(a, ids)
        expected = torch.nn.functional.cross_entropy(b(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        torch.testing.assert_close(loss, expected)
        loss.backward()
        expected.backward()
        for p, q in zip(a.parameters(), b.parameters()):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)

    def test_distillation_is_zero_on_itself_and_equals_kl(self):
        ids = torch.randint(0, CONFIG.vocab, (2, 33))
        student, teacher, twin = trained_looking(0), trained_looking(1), trained_looking(0)
        self.assertAlmostEqual(losses.distillation(student, student, ids, 1.0).item(), 0, places=5)
        loss = losses.distillation(student, teacher, ids, 1.0)
        logp = twin(ids[:, :-1]).flatten(0, 1).log_softmax(-1)
        target = teacher(ids[:, :-1]).flatten(0, 1).detach().log_softmax(-1)
        expected = torch.nn.functional.kl_div(logp, target, log_target=True, reduction="batchmean")
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
        loss.backward()
        expected.backward()
        for p, q in zip(student.parameters(), twin.parameters()):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)


    def test_cached_distillation_over_all_ids_equals_distillation(self):
        ids = torch.randint(0, CONFIG.vocab, (2, 33))
        student, twin, teacher = trained_looking(0), trained_looking(0), trained_looking(1)
        with torch.no_grad():
            top, logp = cache.likeliest(teacher(ids[:, :-1]), CONFIG.vocab)
        loss = losses.cached_distillation(student, cache.Rows(ids, top, logp))
        expected = losses.distillation(twin, teacher, ids, 1.0)
        torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-4)
        loss.backward()
        expected.backward()
        for p, q in zip(student.parameters(), twin.parameters()):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-2, atol=1e-4)

    def test_cached_distillation_takes_the_rest_as_one(self):
        ids = torch.randint(0, CONFIG.vocab, (2, 33))
        student, twin, teacher = trained_looking(0), trained_looking(0), trained_looking(1)
        with torch.no_grad():
            top, logp = cache.likeliest(teacher(ids[:, :-1]), 5)
        loss = losses.cached_distillation(student, cache.Rows(ids, top, logp))
        q = twin(ids[:, :-1]).softmax(-1).gather(-1, top)
        p = logp.exp()
        p, q = (torch.cat((x, 1 - x.sum(-1, keepdim=True)), -1).flatten(0, 1) for x in (p, q))
        expected = torch.nn.functional.kl_div(q.log(), p, reduction="batchmean")
        torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-4)
        loss.backward()
        expected.backward()
        for p, q in zip(student.parameters(), twin.parameters()):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-2, atol=1e-4)


class CacheTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.data = Path(self.folder.name)
        documents = ["# ls\n\n> List files.\n\n- List all files:\n\n`ls -a`", "Question: How many apples are there?\nAnswer: Three apples are there."] * 40
        tokenizer = tokenizers.train_bpe(documents, 300)
        tokenizer.save(str(self.data / "tokenizer.json"))
        corpus.pack(documents, tokenizer, {}, 0).tofile(self.data / "train.bin")
        torch.manual_seed(0)
        self.model = models.Llama(models.Config(vocab=300, width=64, layers=1, heads=2, ff=96, context=64))

    def write(self, name: str, text: str, rows: int) -> cache.Cache:
        args = argparse.Namespace(rows=rows, context=24, batch=4, top=8, temperature=0.8, seed=1, device="cpu")
        (self.data / name).mkdir(exist_ok=True)
        (self.data / name / "meta.json").write_text(json.dumps({"context": 24, "top": 8}))
        maker = (cache.OwnText if text == "own" else cache.CorpusText)(self.model, self.data, args)
        stored = cache.Cache(self.data / name)
        while stored.rows < rows:
            stored.append(maker.batch(stored.rows // 4, min(4, rows - stored.rows)))
        return cache.Cache(self.data / name)

    def test_stored_distributions_are_the_models_own(self):
        for text in ("own", "corpus"):
            rows = self.write(text, text, 12).read(np.arange(12), "cpu")
            with torch.no_grad():
                logits = self.model(rows.ids[:, :-1])
            torch.testing.assert_close(logits.log_softmax(-1).gather(-1, rows.top), rows.logp.float(), rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(logits.topk(8, -1).values, logits.gather(-1, rows.top), rtol=1e-2, atol=1e-3)

    def test_greedy_batches_hold_the_greedy_text_and_begin_a_text(self):
        rows = self.write("own", "own", 8).read(np.arange(8), "cpu")
        self.assertTrue((rows.ids[:, 0] == corpus.END_OF_TEXT).all())
        self.assertTrue(torch.equal(rows.ids[:, 13:], rows.top[:, 12:, 0]))  # prompts have at most half the context

    def test_a_cut_cache_goes_on_where_whole_rows_end(self):
        whole = self.write("a", "own", 12)
        self.write("b", "own", 8)
        with (self.data / "b" / "logp.bin").open("r+b") as out:
            out.truncate(whole.row_bytes["logp"] * 4 + 3)
        again = self.write("b", "own", 12)
        self.assertTrue(torch.equal(again.read(np.arange(12), "cpu").ids, whole.read(np.arange(12), "cpu").ids))

    def test_an_epoch_of_batches_holds_each_row_once(self):
        self.write("own", "own", 12)
        batches = cache.CachedBatches(self.data / "own", rows=3, seed=5, device="cpu")
        seen = [batches._row(i) for i in range(12)]
        self.assertEqual(sorted(seen), list(range(12)))
        self.assertEqual(len(batches.at(2)), 3)


class ImportTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.documents = ["# ls\n\n> List files' names, e.g. 12 of them.\n\n`ls -a`", "Wie hei\u00dft du?  \tNo."] * 20
        self.tokenizer = tokenizers.train_bpe(self.documents, 280)
        self.tokenizer.save(str(self.folder / "tokenizer.json"))
        torch.manual_seed(0)
        self.model = models.Llama(models.Config(vocab=320, width=64, layers=2, heads=2, ff=96, context=64))

    def exported(self, form: str) -> Path:
        out = self.folder / f"{form}.gguf"
        with torch.no_grad():
            export.export(self.model, self.folder / "tokenizer.json", out, "test", form)
        return out

    def test_float_weights_come_back_as_they_were(self):
        back = import_gguf.load_gguf(self.exported("f32"))
        self.assertEqual(back.config, self.model.config)
        for (name, a), b in zip(self.model.state_dict().items(), back.state_dict().values()):
            self.assertTrue(torch.equal(a, b), name)

    def test_quantised_weights_come_back_as_the_file_holds_them(self):
        for form, error in (("q8_0", 0.006), ("q5_1", 0.05), ("q4_0", 0.15)):
            back = import_gguf.load_gguf(self.exported(form))
            again = {t.name: t.data for t in gguf.GGUFReader(self.exported(form)).tensors}
            w, v = self.model.embed.weight, back.embed.weight
            self.assertLess(((w - v).norm() / w.norm()).item(), error)
            self.model = back
            for t in gguf.GGUFReader(self.exported(form)).tensors:
                if form == "q8_0":  # exporting again gives the same file
                    self.assertTrue(np.array_equal(t.data, again[t.name]), t.name)
            self.setUp()

    def test_tokenizer_comes_back(self):
        path = self.folder / "back.json"
        path.write_text(json.dumps(import_gguf.read_tokenizer(gguf.GGUFReader(self.exported("q8_0")))))
        back = Tokenizer.from_file(str(path))
        for text in self.documents + ["unseen \u20ac text\n\n\n  x=1"]:
            self.assertEqual(back.encode(text).ids, self.tokenizer.encode(text).ids)
            self.assertEqual(back.decode(back.encode(text).ids), text)

    def test_other_models_are_refused(self):
        out = self.folder / "other.gguf"
        writer = gguf.GGUFWriter(out, "gpt2")
        writer.add_name("other")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with self.assertRaisesRegex(SystemExit, "only llama"):
            import_gguf.load_gguf(out)


class GenerateTest(unittest.TestCase):
    def test_cache_gives_the_same_text_as_no_cache(self):
        model = trained_looking()
        ids = torch.randint(0, CONFIG.vocab, (4, 7))
        text = generate.continue_rows(model, ids, 20)
        with torch.no_grad():
            for end in range(7, 27):
                ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), 1)
        self.assertTrue(torch.equal(text, ids))

    def test_chunked_attention_equals_sdpa(self):
        q, k, v = (torch.randn(2, 3, 50, 8) for _ in range(3))
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.testing.assert_close(models.attend(q, k, v, chunk=16), expected, rtol=1e-4, atol=1e-5)


class EvaluateTest(unittest.TestCase):
    def test_tokens_per_step(self):
        yes, no = True, False
        self.assertEqual(evaluate.tokens_per_step(np.array([no] * 6), 4), (6, 6))
        self.assertEqual(evaluate.tokens_per_step(np.array([yes] * 10), 4), (10, 2))
        self.assertEqual(evaluate.tokens_per_step(np.array([yes, no, yes, yes, no]), 4), (5, 2))

    def test_a_model_predicts_itself(self):
        model = trained_looking()
        texts = generate.continue_rows(model, torch.randint(1, CONFIG.vocab, (3, 8)), 20)
        tokens, steps = evaluate.acceptance(model, texts, 8, 4)
        self.assertGreaterEqual(tokens / steps, 1.0)
        self.assertLessEqual(steps, sum(-(-20 // 5) for _ in range(3)))


class BatchesTest(unittest.TestCase):
    def test_an_epoch_holds_each_window_once_and_resumes(self):
        stream = np.arange(1, 1 + 16 * 21, dtype=np.uint16)
        batches = Batches(stream, context=16, rows=4, seed=3, device="cpu")
        steps = batches.windows // 4
        starts = [int(row[0]) for s in range(steps) for row in batches.at(s)]
        self.assertEqual(len(set(starts)), len(starts))
        again = Batches(stream, context=16, rows=4, seed=3, device="cpu")
        self.assertTrue(torch.equal(again.at(steps + 2), batches.at(steps + 2)))


class RunTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.data = Path(folder.name)
        rng = np.random.default_rng(0)
        for name in ("train", "val"):
            rng.integers(0, CONFIG.vocab, 900, dtype=np.uint16).tofile(self.data / f"{name}.bin")
        models.save(self.data / "start.pt", trained_looking())

    def run_of(self, name: str, *more: str) -> train.Run:
        parser = argparse.ArgumentParser()
        train.add_run_arguments(parser)
        files = ["--data", str(self.data), "--init", str(self.data / "start.pt"), "--out", str(self.data / name)]
        shape = ["--context", "32", "--rows", "2", "--steps", "8", "--warmup", "3", "--decay", "4", "--device", "cpu"]
        args = parser.parse_args([*files, *shape, *more])
        with contextlib.redirect_stdout(None):
            model = train.new_model(args)
            return train.Run(args, model, lambda ids: losses.cross_entropy(model, ids))

    def go(self, run: train.Run) -> bool:
        with contextlib.redirect_stdout(None):
            return run.train()

    def test_a_run_that_was_stopped_ends_as_one_that_was_not(self):
        self.assertTrue(self.go(self.run_of("whole.pt")))
        parts = 0
        while True:  # every part is stopped in its first step, in warm-up as in decay
            run = self.run_of("cut.pt")
            run.stop()
            parts += 1
            if self.go(run):
                break
        self.assertEqual(parts, 8)
        whole, cut = (torch.load(self.data / name, weights_only=True) for name in ("whole.pt", "cut.pt"))
        for name, w in whole["model"].items():
            self.assertTrue(torch.equal(w, cut["model"][name]), name)
        self.assertEqual((whole["step"], whole["tokens"]), (cut["step"], cut["tokens"]))

    def test_a_signal_leaves_a_checkpoint(self):
        run = self.run_of("run.pt")
        self.addCleanup(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        self.addCleanup(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))
        compute = run.loss_of_batch
        run.loss_of_batch = lambda ids: (signal.raise_signal(signal.SIGTERM), compute(ids))[1]
        with contextlib.redirect_stdout(None):
            self.assertEqual(run.main(), 3)
        self.assertEqual(self.run_of("run.pt").step, 1)

    def test_checkpoints_come_by_time_too(self):
        run = self.run_of("run.pt", "--save-every", "1000", "--save-minutes", "0")
        saved = []
        run.save = lambda: saved.append(run.step)
        self.go(run)
        self.assertEqual(saved, [1, 2, 3, 4, 5, 6, 7, 8, 8])

    def test_another_place_in_the_text_is_refused(self):
        run = self.run_of("run.pt")
        run.stop()
        self.go(run)
        for change in (("--rows", "4"), ("--context", "16"), ("--seed", "1"), ("--stream", "train.bin,val.bin")):
            with self.assertRaisesRegex(SystemExit, "cannot go on with another"):
                self.run_of("run.pt", *change)
        self.assertEqual(self.run_of("run.pt", "--steps", "20").step, 1)  # a longer run is the same run


class DFlashTest(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(3)
        self.config = models.Config(vocab=40, width=64, layers=2, heads=2, ff=96, context=64)
        self.head = dflash.Head(self.config, [0, 1], 1, 4)
        self.embed = torch.randn(40, 64)
        self.ids, self.taps = torch.randint(1, 40, (1, 20)), torch.randn(1, 20, 128)

    def rows(self, places: list[int]) -> torch.Tensor:
        return self.head(self.embed, self.ids, self.taps, torch.tensor([places]))

    def test_a_block_sees_its_first_token_and_the_text_before_it_only(self):
        before = self.rows([7, 12])
        self.assertTrue(torch.allclose(before[:, :1], self.rows([7]), atol=1e-5))
        self.ids[0, 8], self.taps[0, 7:] = 39 - self.ids[0, 8], torch.randn(13, 128)
        self.assertTrue(torch.allclose(before[:, 0], self.rows([7, 12])[:, 0], atol=1e-5))
        self.taps[0, 6] += 1
        self.assertFalse(torch.allclose(before[:, 0], self.rows([7, 12])[:, 0], atol=1e-5))
        now = self.rows([7])
        self.ids[0, 7] = 39 - self.ids[0, 7]
        self.assertFalse(torch.allclose(now, self.rows([7]), atol=1e-5))

    def test_the_loss_asks_a_mask_for_what_the_target_says_before_it(self):
        last = torch.randn(1, 20, 64)
        batch = (self.ids, self.taps, last)
        with unittest.mock.patch.object(self.head, "forward", lambda *_: last[:, 5:8][:, None]):
            _, hits, accepted = dflash.loss_of(self.head, self.embed, batch, torch.tensor([[5]]), 0.8)
        self.assertEqual((hits.tolist(), accepted.item()), ([1, 1, 1], 3))

    def test_every_weight_has_a_name_in_the_file(self):
        names = {dflash.gguf_name(key) for key in self.head.state_dict()}
        self.assertEqual(len(names), len(self.head.state_dict()))
        self.assertIn("blk.1.attn_k_norm.weight", names)
        self.assertIn("enc.output_norm.weight", names)


class CorpusTest(unittest.TestCase):
    def test_kinds(self):
        self.assertEqual(corpus.kind_of("Question: How many?\nAnswer: 3"), "math")
        self.assertEqual(corpus.kind_of("# ls\n\n> List files.\n\n- List all files:\n\n`ls -a`"), "help")
        self.assertEqual(corpus.kind_of("PEP: 8\nTitle: Style"), "prose")
        self.assertEqual(corpus.kind_of("# `vector` class\n\nA container."), "docs")


if __name__ == "__main__":
    unittest.main()
