"""Tests of the recipe: python3 test_training.py. They need PyTorch and no corpus."""

import unittest

import numpy as np
import torch

import corpus
import evaluate
import generate
import grow
import losses
import model as models
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


class CorpusTest(unittest.TestCase):
    def test_kinds(self):
        self.assertEqual(corpus.kind_of("Question: How many?\nAnswer: 3"), "math")
        self.assertEqual(corpus.kind_of("# ls\n\n> List files.\n\n- List all files:\n\n`ls -a`"), "help")
        self.assertEqual(corpus.kind_of("PEP: 8\nTitle: Style"), "prose")
        self.assertEqual(corpus.kind_of("# `vector` class\n\nA container."), "docs")


if __name__ == "__main__":
    unittest.main()
