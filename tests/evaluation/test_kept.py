"""A dense model whose blocks run once for each window."""

from pathlib import Path

import pytest
import torch

from gossamer.checkpoint.loading import load
from gossamer.evaluation.evaluate import evaluate
from gossamer.evaluation.kept import KeptModel
from tests.models import tiny_inputs


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_the_second_call_gives_the_very_same_logits_without_running_a_block(kind: str, parent) -> None:
    kept = KeptModel(parent(kind))
    runs = []
    for block in kept._blocks:
        block.register_forward_pre_hook(lambda module, _args: runs.append("forward" in module.__dict__))
    windows = [tiny_inputs(kind, batch_size=1, seed=seed)["input_ids"] for seed in (1, 2)]
    with torch.inference_mode():
        expected = [load(parent(kind), dtype=torch.float32).model(ids).logits for ids in windows]
        for stands_in in (False, True):
            runs.clear()
            for ids, logits in zip(windows, expected, strict=True):
                assert torch.equal(kept(ids).logits, logits)
            assert runs == [stands_in] * 4


def test_figures_beside_a_kept_parent_are_those_beside_its_path(compressed, text: Path) -> None:
    case = compressed("llama")
    settings = {"text": text, "length": 48, "num_windows": 3}
    kept = KeptModel(case.parent)
    alone = evaluate(kept, **settings)
    assert (alone.engine, alone.model, alone.parent) == ("torch", str(case.parent), None)
    expected = evaluate(case.folder, against=case.parent, **settings)
    assert alone.perplexity == expected.parent_perplexity
    assert evaluate(case.folder, against=kept, **settings) == expected


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_windows_are_found_again_in_other_company(kind: str, parent) -> None:
    kept = KeptModel(parent(kind))
    ids_BL = tiny_inputs(kind, batch_size=4, seed=1)["input_ids"]
    with torch.inference_mode():
        logits_BLV = torch.cat([kept(ids_BL[:2]).logits, kept(ids_BL[2:]).logits])
        for block in kept._blocks:
            block.register_forward_pre_hook(
                lambda module, _args: module.__dict__["forward"]
            )  # KeyError if it runs
        again_BLV = kept(ids_BL[[3, 0, 2]]).logits
    torch.testing.assert_close(again_BLV, logits_BLV[[3, 0, 2]], rtol=1e-5, atol=1e-5)


def test_no_more_is_kept_than_there_is_room_for(parent) -> None:
    ids_BL = tiny_inputs("llama", batch_size=3, seed=1)["input_ids"]
    whole = KeptModel(parent("llama"))
    kept = KeptModel(parent("llama"), 2 * ids_BL.shape[1] * 4 * whole.config.hidden_size)
    with torch.inference_mode():
        first, second = kept(ids_BL).logits, kept(ids_BL).logits
    assert len(kept._kept) == 2
    assert torch.equal(first, second)
