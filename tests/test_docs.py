"""README and docs: their code and commands run on tiny models, their links lead somewhere, their tables are true."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers
import typer
import yaml

import gossamer
from gossamer.calibration.statistics import Gram, InputNorm
from gossamer.checkpoint.summary import describe_format
from gossamer.cli.app import app
from gossamer.cli.app import main as run_cli
from gossamer.evaluation.result import Evaluation
from gossamer.evaluation.speed import compare as speed
from gossamer.evaluation.speed.bandwidth import Bandwidth
from gossamer.evaluation.speed.load_probe import LoadFigures
from gossamer.evaluation.speed.result import Benchmark
from gossamer.formats.choose import pack
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.target import PruneTarget
from gossamer.recipe.reader import parse_recipe, shipped_recipes
from gossamer.recipe.table import METHODS
from tests.checkpoint.gguf_files import write_gguf
from tests.models import save_tiny, tiny_config, tiny_tokenizer
from tests.pages import PAGES, ROOT, blocks, headings, name_of, pages_with
from tests.training.adapters import factors, write_adapter

WORDS = [
    "The",
    "river",
    "a",
    "bridge",
    "old",
    "stone",
    "house",
    "under",
    "grey",
    "clouds",
    "seven",
    "light",
    "of",
]


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages name: models, texts, a recipe."""
    folder = tmp_path_factory.mktemp("things")
    model = save_tiny("llama", folder / "my-model", intermediate_size=128)
    write_gguf(model, "llama", folder / "my-model.gguf")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = transformers.BertModel(tiny_config("bert", intermediate_size=128))
    encoder.save_pretrained(folder / "my-encoder")
    tiny_tokenizer().save_pretrained(folder / "my-encoder")
    shapes = {
        f"model.layers.{block}.self_attn.{name}": (64, 64)
        for block in (0, 1)
        for name in ("q_proj", "o_proj")
    }
    write_adapter(folder / "my-adapter", factors(shapes), target_modules=["q_proj", "o_proj"])
    generator = torch.Generator().manual_seed(0)
    for name, count in (("calibration.txt", 160), ("evaluation.txt", 30)):
        chosen = torch.randint(len(WORDS), (count, 12), generator=generator).tolist()
        sentences = [" ".join(WORDS[index] for index in line) + "." for line in chosen]
        (folder / name).write_text("\n\n".join(sentences), encoding="utf-8")
    recipe = "steps: [{layers: '*.mlp.*', method: magnitude, sparsity: 0.5}]"
    (folder / "my-recipe.yaml").write_text(recipe, encoding="utf-8")
    return folder


@pytest.fixture
def workplace(things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with links to the things. Timings are not tested here, so they are kept short."""
    for thing in things.iterdir():
        (tmp_path / thing.name).symlink_to(thing)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed, "read_bandwidth", lambda threads, size: Bandwidth(1.0, 1.0, threads, size, 1))
    monkeypatch.setattr(speed, "num_cores", lambda: 1)
    probed = LoadFigures(load_seconds=1.0, peak_memory_bytes=1, baseline_bytes=1)
    monkeypatch.setattr(speed, "probe_load", lambda *_: probed)
    return tmp_path


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a `gossamer ...` line in this process; its exit code must be 0."""
    monkeypatch.setattr(sys, "argv", shlex.split(command, comments=True))
    with pytest.raises(SystemExit) as exit_:
        run_cli()
    assert exit_.value.code == 0, command


# ---- pages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages_with("python", "sh"), ids=name_of)
def test_what_a_page_tells_to_do_works_from_its_first_block_to_its_last(
    page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.not_run:
            continue
        if block.language == "python":
            exec(block.text, names)
        elif block.language == "sh":
            for command in block.commands():
                assert command.startswith("gossamer "), f"mark the block as not run, or explain: {command}"
                run(command, monkeypatch)
        elif block.language == "yaml":
            parse_recipe(block.text)


@pytest.mark.parametrize("page", pages_with("sh"), ids=name_of)
def test_commands_that_are_not_run_could_be(page: Path) -> None:
    group = typer.main.get_command(app)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for block in blocks(page):
        for command in block.commands() if block.language == "sh" and block.not_run else ():
            words = shlex.split(command, comments=True)
            if words[0] == "make":
                assert words[1] in targets
            elif words[0] == "gossamer":
                group.commands[words[1]].make_context(words[1], words[2:])  # type: ignore[attr-defined]
            else:
                assert words[:2] == ["pip", "install"], f"what is {words[0]}?"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            assert heading in headings(file), target


FIRST_USE = """
import os, sys, traceback
import sacrebleu, scipy.sparse, sklearn.metrics, torch, torch._dynamo, transformers  # slow, and without effect here
import gossamer
children = {}
for name in gossamer.__all__:
    child = os.fork()
    if not child:
        try:
            getattr(gossamer, name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children[name] = child
failed = [name for name, child in children.items() if os.waitpid(child, 0)[1]]
sys.exit(f"cannot be used first: {failed}" if failed else 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each verb is tried in a forked process")
def test_every_verb_can_be_the_first_thing_that_a_process_uses() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


# ---- what the program writes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("command_reference", ROOT / "scripts/command_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date(command_reference: ModuleType) -> None:
    assert command_reference.out_of_date() == [], "run: make docs"


def test_generated_pages_do_not_depend_on_the_terminal(
    command_reference: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = command_reference.commands_page()
    monkeypatch.setenv("COLUMNS", "40")
    assert command_reference.commands_page() == before


def test_a_stale_page_is_told_apart(
    command_reference: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = (ROOT / "docs/recipes.md").read_text(encoding="utf-8").replace("at most 4096", "at most 7")
    (tmp_path / "recipes.md").write_text(old, encoding="utf-8")
    (tmp_path / "commands.md").write_text(command_reference.commands_page(), encoding="utf-8")
    monkeypatch.setattr(command_reference, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["command_reference.py", "--check"])
    assert command_reference.main() == 1
    monkeypatch.setattr(sys, "argv", ["command_reference.py"])
    assert command_reference.main() == 0
    assert command_reference.out_of_date() == []


# ---- tables ---------------------------------------------------------------------------------------------------------


def rows_of_formats() -> list[tuple[str, str, float]]:
    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\[\{.*?\}\])` \| (.*?) \| ([\d.]+) \|$", page, re.MULTILINE)
    return [(steps, format_, float(size)) for steps, format_, size in rows]


@pytest.mark.parametrize(("steps", "format_", "size"), rows_of_formats())
def test_recipes_give_the_formats_that_the_page_says(steps: str, format_: str, size: float) -> None:
    layer = LayerWeight(torch.randn(256, 256, generator=torch.Generator().manual_seed(0)))
    for step in parse_recipe(yaml.safe_dump({"steps": yaml.safe_load(steps)})).steps:
        layer = METHODS[step.method].apply(layer, None, step.settings, [])
    packed = pack(layer.weight_OI, layer.mask_OI, layer.quantized, torch.bfloat16)
    assert describe_format(packed.meta()) == format_
    assert packed.num_bytes / 256**2 == pytest.approx(size, abs=0.0051)


def test_every_key_of_a_recipe_is_explained() -> None:
    assert len(rows_of_formats()) >= 10
    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    for method in METHODS.values():
        for key in method.settings.model_fields:
            assert f"| `{key}` |" in page


NEEDS = {None: "nothing", InputNorm: "norms of the inputs", Gram: "Gram matrix of the inputs"}


def test_every_method_is_listed_with_what_it_needs() -> None:
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    for name, method in METHODS.items():
        need = "what the dense block returns" if method.trains else NEEDS[method.settings.needs]
        assert f"| `{name}` | {need} |" in page


def test_the_page_names_the_shipped_recipes_that_do_not_prune_by_the_default_method() -> None:
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    others = {
        name
        for name, recipe in shipped_recipes().items()
        for step in recipe.steps
        if isinstance(step.settings, PruneTarget) and step.method != "admm"
    }
    assert others == {"sparse50-int4", "sparse50-lowrank"}
    assert all(f"`{name}`" in page for name in others)


def leaves(value: object, name: str = "") -> Iterator[str]:
    """The keys of nested tables, but for those whose values are numbers of rounds."""
    if isinstance(value, dict):
        for key, inside in value.items():
            yield key
            yield from leaves(inside, key)


def test_the_page_explains_every_figure(workplace: Path) -> None:
    page = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    save_tiny("bert", workplace / "masked")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<pad>"})
    tokenizer.save_pretrained(workplace / "masked")
    pairs = [("my-model", 2), ("my-encoder", None), ("masked", 1)]
    printed: list[Evaluation | Benchmark] = [
        gossamer.evaluate(model, against=model, text="evaluation.txt", num_windows=windows)
        for model, windows in pairs
    ]
    printed.append(gossamer.benchmark("my-model", against="my-model", tokens=2, repeats=1, threads=1))
    for figures in printed:
        for key in leaves(figures.to_dict()):
            assert f"`{key}`" in page, key


# ---- examples -------------------------------------------------------------------------------------------------------

EXAMPLES = {
    "compress_and_compare.py": "my-model calibration.txt evaluation.txt out int8",
    "custom_recipe.py": "my-model calibration.txt out",
    "encoder_embeddings.py": "my-encoder calibration.txt out",
}


@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_an_example_runs(example: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"__name__": "example"}
    exec(compile((ROOT / "examples" / example).read_text(encoding="utf-8"), example, "exec"), names)
    names["main"](*EXAMPLES[example].split())  # type: ignore[operator]
    assert len(capsys.readouterr().out.splitlines()) >= 2
    assert Path("out").is_dir()
