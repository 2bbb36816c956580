"""Two processes that calibrate together find the masks that one finds alone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gossamer
from gossamer.compression.compress import check_together
from gossamer.distributed.processes import Processes
from gossamer.errors import UsageError
from gossamer.recipe.reader import parse_recipe
from tests.conftest import read_packed
from tests.models import save_tiny

PRUNED = """
calibration: {{samples: 130, length: 32, align: {align}}}
steps:
  - {{layers: "*", method: {method}, sparsity: 0.5}}
  - {{layers: head, method: gptq, bits: 4, group_size: 32}}
  - {{layers: embeddings, method: rtn, bits: 8, group_size: 32}}
"""


def torchrun(*arguments: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(processes),
        "--standalone",
    ]
    return subprocess.run(
        [*command, "-m", "gossamer", "compress", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("kind", "method", "align", "alike"),
    [
        ("t5", "wanda", "false", 1.0),
        ("llama", "sparsegpt", "true", 0.97),
        ("llama", "sparsegpt, scope: global", "true", 0.97),
    ],
)
def test_two_processes_find_the_masks_of_one(
    kind: str, method: str, align: str, alike: float, text: Path, tmp_path: Path
) -> None:
    """Where weights are fitted one after the other, one tie that falls otherwise moves the next ones: a few differ."""
    save_tiny(kind, tmp_path / "dense", tie_word_embeddings=False)
    recipe = PRUNED.format(method=method, align=align)
    (tmp_path / "recipe.yaml").write_text(recipe)
    alone = gossamer.compress(
        tmp_path / "dense", parse_recipe(recipe), out=tmp_path / "alone", text=str(text)
    )
    result = torchrun(
        tmp_path / "dense",
        "--recipe",
        tmp_path / "recipe.yaml",
        "--text",
        text,
        "--out",
        tmp_path / "both",
        "--json",
    )
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)  # printed once, by the first
    assert manifest["run"]["processes"] == 2
    told = re.findall(r"^.+: [0-9]+/[0-9]+$", result.stderr, re.MULTILINE)
    assert "blocks: 0/" in result.stderr
    assert len(told) == len(set(told)), "the second process told of its progress too"
    one, two = read_packed(alone.folder, alone.manifest), read_packed(tmp_path / "both", manifest)
    assert set(one) == set(two)
    equal = {name: float((one[name].mask() == two[name].mask()).float().mean()) for name in one}
    assert sum(equal.values()) / len(equal) >= alike
    own, other = alone.manifest["layers"], manifest["layers"]
    first = next(layer["name"] for layer in own if layer["block"] == 0)
    assert equal[first] == 1.0
    torch.testing.assert_close(one[first].unpack(), two[first].unpack(), atol=1e-4, rtol=1e-4)
    assert [layer["name"] for layer in own] == [layer["name"] for layer in other]
    mine, yours = (sum(layer["relative_error"] for layer in layers) for layers in (own, other))
    assert mine == pytest.approx(yours, rel=0.05)
    for own, other in zip(alone.manifest["blocks"], manifest["blocks"], strict=True):
        assert own.keys() == other.keys()
        if "output_error" in own:
            assert own["output_error"] == pytest.approx(other["output_error"], rel=0.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "both", "dense", "recipe.yaml"]


def test_training_and_resuming_are_refused_for_several_processes() -> None:
    trained = parse_recipe("steps: [{method: wanda}, {method: reconstruct}]")
    with pytest.raises(UsageError, match="reconstruct trains each block on all of the text"):
        check_together(trained, resume=False)
    pruned = parse_recipe("steps: [{method: wanda}]")
    check_together(pruned, resume=False)
    with pytest.raises(UsageError, match="keeps no state"):
        check_together(pruned, resume=True)


def test_batches_are_shared_out_once_each_and_too_few_are_refused() -> None:
    shares = []
    for index in range(3):
        processes = Processes()
        processes.count, processes.index = 3, index
        shares.append(processes.part(range(8)))
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]
    with pytest.raises(UsageError, match="3 processes, but the calibration text makes 2 batches"):
        processes.part(range(2))
