"""The native engine computes what transformers computes: each family, format, instruction set and way of running."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import gossamer
from gossamer.checkpoint.loading import load
from gossamer.kernels import dispatch
from gossamer.recipe.reader import parse_recipe
from gossamer.runtime.engine import Engine, Sampling
from tests.models import save_tiny
from tests.runtime.engines import FAMILIES, error, exact, save_family, text_ids

TOLERANCE = 1e-3  # keys and values are rounded to float16


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Tensor]]:
    """Kind -> folder of the tiny model, its logits by transformers."""
    folders = {kind: tmp_path_factory.mktemp("engine") / kind for kind in FAMILIES}
    return {kind: (folder, save_family(kind, folder)) for kind, folder in folders.items()}


@pytest.mark.parametrize("kind", FAMILIES)
def test_logits_agree_with_transformers(kind: str, saved: dict[str, tuple[Path, Tensor]]) -> None:
    folder, expected_TV = saved[kind]
    assert error(exact(folder).logits(text_ids()), expected_TV) < TOLERANCE


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_prompt_in_parts_gives_the_logits_of_the_whole(
    kind: str, saved: dict[str, tuple[Path, Tensor]]
) -> None:
    folder, expected_TV = saved[kind]
    for step_tokens in (1, 19):
        assert error(exact(folder, step_tokens=step_tokens).logits(text_ids()), expected_TV) < TOLERANCE


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_change_nothing(threads: int, saved: dict[str, tuple[Path, Tensor]]) -> None:
    folder, _ = saved["llama"]
    for step_tokens in (1, 64):
        one = exact(folder, step_tokens=step_tokens).logits(text_ids())
        assert torch.equal(exact(folder, step_tokens=step_tokens, threads=threads).logits(text_ids()), one)


@pytest.mark.parametrize("isa", dispatch.available_isas())
@pytest.mark.parametrize("kind", ["gemma3", "gpt2"])
def test_every_instruction_set_agrees(kind: str, isa: str, saved: dict[str, tuple[Path, Tensor]]) -> None:
    folder, expected_TV = saved[kind]
    native = dispatch.native_module()
    assert native is not None
    before = native.isa()
    native.set_isa(isa)
    try:
        assert error(exact(folder).logits(text_ids()), expected_TV) < TOLERANCE
    finally:
        native.set_isa(before)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_compressed_folders_agree_with_their_layers_in_transformers(kind: str, compressed) -> None:
    folder = compressed(kind).folder
    with torch.inference_mode():
        expected_TV = load(folder).model(text_ids()[None]).logits[0]
    assert error(exact(folder).logits(text_ids()), expected_TV) < TOLERANCE
    rounded_TV = exact(folder, activations="int8").logits(text_ids())
    assert 0 < error(rounded_TV, expected_TV) < 0.05


LOW_RANK = {
    "everywhere": "{layers: '*', method: basil, rank: 5, iterations: 3}, {layers: '*', method: gptq, group_size: 32}",
    "alone": "{layers: '*', method: svd, rank: 20}",
    "here and there": "{layers: '*', method: rtn, group_size: 32}, {layers: ['*q_proj', '*up_proj', '*.down_proj', "
    "'*c_proj', '*c_fc'], method: eora, rank: 3}",
    "of the head too": "{layers: ['*', head], method: rtn, group_size: 32}, "
    "{layers: ['*', head], method: eora, rank: 3}",
}


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("where", LOW_RANK)
def test_low_rank_parts_agree_with_their_layers_in_transformers(
    where: str, kind: str, parent, text: Path, tmp_path: Path
) -> None:
    recipe = parse_recipe(f"calibration: {{samples: 4, length: 32}}\nsteps: [{LOW_RANK[where]}]")
    if where == "of the head too" and kind != "llama":
        pytest.skip("the head is tied to the embeddings, which are only quantized")
    gossamer.compress(parent(kind), recipe, out=tmp_path / "out", text=str(text))
    with torch.inference_mode():
        expected_TV = load(tmp_path / "out").model(text_ids()[None]).logits[0]
    for settings in ({}, {"threads": 2}, {"step_tokens": 1, "threads": 2}):
        assert error(exact(tmp_path / "out", **settings).logits(text_ids()), expected_TV) < TOLERANCE
    rounded_TV = exact(tmp_path / "out", activations="int8").logits(text_ids())
    assert error(rounded_TV, expected_TV) < 0.05


@pytest.mark.parametrize("rope", [
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 32, "rope_theta": 10000.0},
])  # fmt: skip
def test_scaled_rotary_embeddings_agree(rope: dict[str, object], tmp_path: Path) -> None:
    expected_TV = save_family("llama", tmp_path / "model", rope_parameters=rope)
    assert error(exact(tmp_path / "model").logits(text_ids()), expected_TV) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dense_weights_run_in_the_type_they_are_stored_in(dtype: torch.dtype, tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "model", dtype=dtype)
    with torch.inference_mode():
        expected_TV = model.float()(text_ids()[None]).logits[0]
    assert error(exact(tmp_path / "model").logits(text_ids()), expected_TV) < TOLERANCE


def test_an_int8_cache_stays_close(saved: dict[str, tuple[Path, Tensor]]) -> None:
    folder, expected_TV = saved["llama"]
    assert 1e-6 < error(exact(folder, cache="int8").logits(text_ids()), expected_TV) < 0.02


def test_sequences_beside_each_other_write_what_they_write_alone(
    saved: dict[str, tuple[Path, Tensor]],
) -> None:
    folder, _ = saved["llama"]
    prompts = [text_ids(length, seed) for seed, length in enumerate((5, 40, 1, 33))]
    engine = exact(folder, step_tokens=24, cache_tokens=512)
    alone = [list(engine.generate(prompt, 20)) for prompt in prompts]
    together: dict[int, list[int]] = {}
    numbers = [engine.add(prompt, 20) for prompt in prompts[:2]]
    for step in range(200):
        if step == 3:  # new prompts join while others write
            numbers += [engine.add(prompt, 20) for prompt in prompts[2:]]
        if not engine.busy:
            break
        for event in engine.step():
            together.setdefault(event.sequence, []).append(event.token)
    assert [together[number] for number in numbers] == alone


def test_greedy_text_takes_the_largest_logit(saved: dict[str, tuple[Path, Tensor]]) -> None:
    folder, _ = saved["qwen3"]
    engine = exact(folder)
    prompt = text_ids(9)
    written = list(engine.generate(prompt, 12))
    ids = prompt.tolist()
    for token in written:
        assert token == int(engine.logits(ids)[-1].argmax())
        ids.append(token)


def test_sampling_repeats_with_its_seed_whatever_the_threads(saved: dict[str, tuple[Path, Tensor]]) -> None:
    folder, _ = saved["llama"]

    def written(seed: int, threads: int = 1) -> list[int]:
        engine: Engine = exact(folder, threads=threads)
        return list(engine.generate(text_ids(9), 24, sampling=Sampling(temperature=1.3, seed=seed)))

    assert written(1) == written(1) == written(1, threads=2)
    assert len({tuple(written(seed)) for seed in range(4)}) > 1
