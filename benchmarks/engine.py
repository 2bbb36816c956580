"""The native engine beside llama.cpp on SmolLM2: decode, prefill of 512 tokens, batches.

    python benchmarks/engine.py [--work DIR] [--threads 2 1] [--rounds N] [--recipes NAME ...] [--large] [--out DIR]

Folders of the recipes are made in the work folder when they are not there (calibrated on little text: the speed of a
format does not depend on it), and so are llama.cpp's files, quantized by llama.cpp from the demo's GGUF. All models of
a number of threads are loaded at once and run interleaved: each round visits all of them, in turn from the front and
from the back. Ratios are medians over the rounds of the ratio within a round. Prefill is also
compared with transformers in bfloat16. --large adds a 3B model (6 GB of files; kept in engine.json until the next
--large). Writes engine.json, engine.md and engine.svg. Needs llama-cpp-python (`gossamer[bench]`). Progress on stderr.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from large import as_section, measure_large
from plot import as_svg
from torch import Tensor

from gossamer.checkpoint.loading import load
from gossamer.compression.compress import compress
from gossamer.data.assets import fetch_demo_assets
from gossamer.evaluation.speed.bandwidth import read_bandwidth
from gossamer.evaluation.speed.llama_cpp import LlamaCppModel, llama_cpp, quantize
from gossamer.evaluation.speed.native import NativeModel
from gossamer.evaluation.speed.surroundings import business, cpu_model, noise, num_cores, versions

RECIPES = ("int8", "int4", "sparse50-int4", "nm4of16-int4")
PEERS = {"Q8_0": 7, "Q4_0": 2, "Q4_K_M": 15}
"""llama.cpp's names and numbers of file types."""
TARGETS = {
    "int8": ("Q8_0", 1.8),
    "int4": ("Q4_0", 2.0),
    "sparse50-int4": ("Q4_0", 2.5),
    "nm4of16-int4": ("Q4_0", 4.0),
}
PREFILL_TARGET = 3.0
PROMPT, PREFILL, TOKENS, BATCH = 64, 512, 64, 8


def main() -> None:
    parser = argparse.ArgumentParser(description="The native engine beside llama.cpp.")
    parser.add_argument("--work", type=Path, default=Path("build/engine-bench"))
    parser.add_argument("--threads", type=int, nargs="+", default=[num_cores(), 1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--large-only", action="store_true", help="keep all other figures of engine.json")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    given = parser.parse_args()
    module = llama_cpp()
    if module is None:
        sys.exit("benchmarks/engine.py needs llama-cpp-python: pip install 'gossamer[bench]'")
    given.work.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "engine.json"
    old = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    large = old.get("large")
    if given.large or given.large_only:
        large = measure_large(given.work, given.threads[0], given.rounds)
    if given.large_only:
        write(old | {"large": large}, given.out)
        return
    folders, files = prepare(given.work, given.recipes)
    before = business()
    dense = fetch_demo_assets(report=say).model_gguf
    runs = [measure(folders, files, dense, threads, given.rounds) for threads in given.threads]
    after = business()
    report = {
        "cpu": cpu_model(),
        "cores": num_cores(),
        **noise(before, after),
        "loadavg": [before.loadavg, after.loadavg],
        "versions": {**versions(), "llama-cpp-python": module.__version__},
        "prompt": PROMPT,
        "prefill": PREFILL,
        "tokens": TOKENS,
        "batch": BATCH,
        "rounds": given.rounds,
        "runs": runs,
        "large": large,
    }
    write(report, given.out)


def write(report: dict[str, Any], out: Path) -> None:
    run = report["runs"][0]
    title = f"SmolLM2-135M, {report['cpu']}, {run['threads']} threads"
    (out / "engine.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (out / "engine.md").write_text(as_page(report), encoding="utf-8")
    (out / "engine.svg").write_text(as_svg(run, title), encoding="utf-8")
    say(f"wrote {out / 'engine.md'}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress


def prepare(work: Path, recipes: list[str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the folders of the recipes and llama.cpp's files; make what is not there."""
    assets = fetch_demo_assets(report=say)
    folders = {name: work / name for name in recipes}
    for name, folder in folders.items():
        if not folder.exists():
            say(f"compressing {name}")
            text = str(assets.calibration_text)
            compress(str(assets.model_gguf), name, out=folder, text=text, samples=4, length=128)
    files = {name: work / f"{name}.gguf" for name in PEERS}
    for name, kind in PEERS.items():
        if not files[name].exists():
            say(f"quantizing {name}")
            if not quantize(assets.model_gguf, files[name], kind):
                sys.exit(f"llama.cpp could not write {files[name]}")
    return folders, files


class TorchModel:
    """transformers in bfloat16; only its prefill is measured."""

    def __init__(self, file: Path, threads: int):
        self.threads = threads
        self.model = load(file, dtype=torch.bfloat16).model.eval()
        self.weight_bytes_per_token = sum(p.numel() * p.element_size() for p in self.model.parameters())

    def prefill(self, ids_1T: Tensor) -> float:
        """Seconds until the logits behind the prompt are there, with torch's own threads for as long."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        started = time.perf_counter()
        with torch.inference_mode():
            self.model(ids_1T, logits_to_keep=1)
        seconds = time.perf_counter() - started
        torch.set_num_threads(before)
        return seconds


def measure(
    folders: dict[str, Path], files: dict[str, Path], dense: Path, threads: int, rounds: int
) -> dict[str, Any]:
    """Run all models interleaved with so many threads; return the medians and ratios."""
    models: dict[str, Any] = {name: NativeModel.open(path, "int8", threads) for name, path in folders.items()}
    models |= {name: LlamaCppModel(path, threads, PREFILL + TOKENS + 1) for name, path in files.items()}
    models["bf16"] = TorchModel(dense, threads)
    torch.set_num_threads(1)
    ids = torch.randint(40_000, (1, PREFILL), generator=torch.Generator().manual_seed(0))
    taken: dict[str, dict[str, list[float]]] = {
        name: {"decode": [], "prefill": [], "batch": []} for name in models
    }
    probes = [read_bandwidth(threads).gb_per_s]
    for number in range(rounds + 1):
        say(f"{threads} threads: round {number} of {rounds}")
        for name in list(models) if number % 2 else list(reversed(models)):
            figures = one_round(models[name], ids)
            for what, value in figures.items() if number else ():
                taken[name][what].append(value)
    probes.append(read_bandwidth(threads).gb_per_s)
    bandwidth = statistics.mean(probes)
    return {
        "threads": threads,
        "read_bandwidth_gb_per_s": bandwidth,
        "models": [figures_of(name, model, taken, bandwidth) for name, model in models.items()],
    }


def one_round(model: Any, ids_1T: Tensor) -> dict[str, float]:
    """Tokens/s of decode after a short prompt, of a prefill, and of a batch (native only); torch: of a prefill."""
    if isinstance(model, TorchModel):
        return {"prefill": PREFILL / model.prefill(ids_1T)}
    decode = model.run_round(ids_1T[:, :PROMPT], TOKENS).decode
    figures = {"decode": TOKENS / decode, "prefill": PREFILL / model.run_round(ids_1T, 1).prefill}
    if isinstance(model, NativeModel):
        figures["batch"] = batch_round(model, ids_1T[0, :PROMPT])
    return figures


def batch_round(model: NativeModel, ids_T: Tensor) -> float:
    """Tokens/s of BATCH sequences side by side, once all prompts are read."""
    engine = model.engine
    for _ in range(BATCH):
        engine.add(ids_T, TOKENS)
    while len(engine.step()) < BATCH:
        pass
    count, started = 0, time.perf_counter()
    while engine.busy:
        count += len(engine.step())
    return count / (time.perf_counter() - started)


def figures_of(
    name: str, model: Any, taken: dict[str, dict[str, list[float]]], bandwidth: float
) -> dict[str, Any]:
    own = taken[name]
    if isinstance(model, TorchModel):
        return {
            "name": name,
            "engine": "torch",
            "prefill_tokens_per_s": statistics.median(own["prefill"]),
            "rounds": own,
        }
    decode = statistics.median(own["decode"])
    figures: dict[str, Any] = {
        "name": name,
        "engine": "native" if isinstance(model, NativeModel) else "llama.cpp",
        "decode_tokens_per_s": decode,
        "prefill_tokens_per_s": statistics.median(own["prefill"]),
        "weight_bytes_per_token": model.weight_bytes_per_token,
        "bandwidth_share": model.weight_bytes_per_token * decode / bandwidth / 1e9,
        "rounds": own,
    }
    if isinstance(model, NativeModel):
        peer, target = TARGETS.get(name, ("Q4_0", None))
        best = max(PEERS, key=lambda each: statistics.median(taken[each]["prefill"]))
        figures["decode_ratio"] = {
            "against": peer,
            "target": target,
            **ratio(own["decode"], taken[peer]["decode"]),
        }
        figures["prefill_ratio"] = {
            "against": best, "target": PREFILL_TARGET, **ratio(own["prefill"], taken[best]["prefill"]),
        }  # fmt: skip
        figures["torch_ratio"] = {
            "against": "torch bf16",
            "target": 1.0,
            **ratio(own["prefill"], taken["bf16"]["prefill"]),
        }
        figures["batch_tokens_per_s"] = statistics.median(own["batch"])
        figures["batch_ratio"] = {
            "against": "one sequence",
            "target": 4.0,
            **ratio(own["batch"], own["decode"]),
        }
    return figures


def ratio(values: list[float], others: list[float]) -> dict[str, float]:
    """Median, smallest and largest of the ratios within a round."""
    ratios = [value / other for value, other in zip(values, others, strict=True)]
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def as_page(report: dict[str, Any]) -> str:
    """Return the report in Markdown."""
    lines = [
        "# The native engine beside llama.cpp",
        "",
        "Made by `make bench` (`benchmarks/engine.py`). SmolLM2-135M; decode: tokens/s after a prompt of "
        f"{report['prompt']}; prefill: of {report['prefill']} tokens; batch: {report['batch']} sequences at once. "
        "Ratios: median of the rounds (smallest to largest).",
        "",
        f"{report['cpu']}, {report['cores']} cores, {report['rounds']} interleaved rounds, "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items())
        + ".",
    ]
    if report["noisy"]:
        lines += ["", "**Noisy run:** other processes or the hypervisor took time. Do not quote it."]
    for run in report["runs"]:
        lines += [
            "",
            f"## {run['threads']} threads, read bandwidth {run['read_bandwidth_gb_per_s']:.1f} GB/s",
            "",
        ]
        lines += [
            "| model | decode | share of bandwidth | ratio | target | prefill | ratio | target | x torch bf16 | batch "
            "| x one |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [as_row(model) for model in run["models"]]
    if report.get("large"):
        lines += as_section(report["large"])
    return "\n".join(lines) + "\n"


def as_row(model: dict[str, Any]) -> str:
    if model["engine"] == "torch":
        return f"| torch {model['name']} | | | | | {model['prefill_tokens_per_s']:.0f} | | | | | |"
    cells = [
        f"{model['engine']} {model['name']}",
        f"{model['decode_tokens_per_s']:.1f}",
        f"{model['bandwidth_share']:.2f}",
    ]
    if model["engine"] != "native":
        return (
            "| "
            + " | ".join([*cells, "", "", f"{model['prefill_tokens_per_s']:.0f}", "", "", "", "", ""])
            + " |"
        )
    decode, prefill, batch = model["decode_ratio"], model["prefill_ratio"], model["batch_ratio"]
    cells += [as_ratio(decode), target_of(decode), f"{model['prefill_tokens_per_s']:.0f}", as_ratio(prefill)]
    cells += [
        target_of(prefill),
        f"{model['torch_ratio']['ratio']:.2f}",
        f"{model['batch_tokens_per_s']:.0f}",
        f"{batch['ratio']:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def as_ratio(ratio: dict[str, Any]) -> str:
    return f"{ratio['ratio']:.2f} x {ratio['against']} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def target_of(ratio: dict[str, Any]) -> str:
    return "" if ratio["target"] is None else f"{ratio['target']:.1f}"


if __name__ == "__main__":
    main()
