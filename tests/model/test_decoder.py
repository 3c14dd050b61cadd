"""The decoder's three forms agree: teacher forcing, rescoring of several hypotheses, steps."""

from __future__ import annotations

import torch

from voxformer.model import VoxFormer


def encode(model: VoxFormer) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    with torch.no_grad():
        out, lengths, _ = model.encode(torch.randn(3, 9000), torch.tensor([9000, 6001, 3333]))
    return out, lengths


def test_scores_equal_a_loop_over_prefixes(model: VoxFormer) -> None:
    out, lengths = encode(model)
    tokens = torch.randint(1, 20, (3, 2, 5))
    token_lengths = torch.tensor([[5, 1], [0, 3], [4, 4]])
    with torch.no_grad():
        scores = model.score(out, lengths, tokens, token_lengths)
        for b in range(3):
            for n in range(2):
                count = int(token_lengths[b, n])
                prefix = [model.sos_eos_id]
                alone = out[b : b + 1, : int(lengths[b])]
                for position in range(count + 1):
                    target = int(tokens[b, n, position]) if position < count else model.sos_eos_id
                    logits = model.decoder(alone, lengths[b : b + 1], torch.tensor([prefix]))
                    expected = logits[0, -1].log_softmax(-1)[target]
                    torch.testing.assert_close(
                        scores[b, n, position], expected, atol=1e-5, rtol=1e-4
                    )
                    prefix.append(target)
                assert torch.all(scores[b, n, count + 1 :] == 0)


def test_steps_equal_teacher_forcing(model: VoxFormer) -> None:
    out, lengths = encode(model)
    tokens = torch.randint(1, 20, (3, 6))
    inputs = torch.cat([torch.full((3, 1), model.sos_eos_id), tokens], dim=1)
    with torch.no_grad():
        expected = model.decoder(out, lengths, inputs).log_softmax(-1)
        cache = model.decoder.empty_cache(3)
        for position in range(7):
            log_probs, cache = model.step(out, lengths, inputs[:, position], cache)
            torch.testing.assert_close(log_probs, expected[:, position], atol=1e-5, rtol=1e-4)
        assert cache.size(4) == 7


def test_padding_tokens_do_not_change_scores(model: VoxFormer) -> None:
    out, lengths = encode(model)
    tokens = torch.randint(1, 20, (3, 1, 4))
    token_lengths = torch.tensor([[2], [4], [1]])
    other = tokens.clone()
    other[0, 0, 2:] = 7
    other[2, 0, 1:] = 9
    with torch.no_grad():
        first = model.score(out, lengths, tokens, token_lengths)
        second = model.score(out, lengths, other, token_lengths)
    torch.testing.assert_close(first, second)


def test_hypotheses_of_one_utterance_do_not_see_each_other(model: VoxFormer) -> None:
    out, lengths = encode(model)
    tokens = torch.randint(1, 20, (3, 3, 4))
    token_lengths = torch.full((3, 3), 4)
    with torch.no_grad():
        together = model.score(out, lengths, tokens, token_lengths)
        alone = model.score(out, lengths, tokens[:, 1:2], token_lengths[:, 1:2])
    torch.testing.assert_close(together[:, 1:2], alone, atol=1e-5, rtol=1e-4)
