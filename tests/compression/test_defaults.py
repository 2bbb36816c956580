"""Every shipped recipe runs as the documentation shows it: `gossamer compress MODEL --recipe NAME -o OUT`, no more."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gossamer.checkpoint.manifest import read_manifest
from gossamer.cli.app import app
from gossamer.compression.compress import compress
from gossamer.errors import UsageError
from gossamer.recipe.reader import shipped_recipes
from tests.models import save_tiny

FOR_ENCODERS = ("encoder-sparse50-int8",)
"""Shown 4000 windows; an encoder writes none itself, and a decoder is shown fewer here."""


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose few positions make the windows short, and whose linears all shipped groups divide."""
    folder = tmp_path_factory.mktemp("decoder") / "tiny"
    save_tiny("llama", folder, intermediate_size=128, max_position_embeddings=32)
    return folder


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_a_shipped_recipe_runs_on_text_that_the_model_writes(
    recipe: str, decoder: Path, tmp_path: Path
) -> None:
    fewer = ["--samples", "64"] if recipe in FOR_ENCODERS else []
    arguments = ["compress", str(decoder), "--recipe", recipe, "-o", str(tmp_path / "out"), *fewer]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest["calibration"]["source"] in (
        "written by the model itself",
        None,
    )  # None: nothing was observed
    assert manifest["reload_max_difference"] < 1e-4


@pytest.mark.parametrize("recipe", FOR_ENCODERS)
def test_an_encoder_cannot_write_and_says_what_to_give(recipe: str, parent, tmp_path: Path) -> None:
    save_tiny("bert", tmp_path / "encoder", intermediate_size=128)
    with pytest.raises(UsageError, match="--text"):
        compress(tmp_path / "encoder", recipe, out=tmp_path / "out")
