"""A manifest to make reports of, and what helps to look at them."""

import json
from copy import deepcopy
from html.parser import HTMLParser
from typing import Any


def layer(block: int | None, name: str, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "name": name if block is None else f"model.layers.{block}.{name}", "block": block, "kind": "x",
        "shape": [100, 50], "sparsity": 0.5, "bits": 4, "format": "bitmask", "bytes": 2500, "dense_bytes": 10000,
        "relative_error": 0.02, "seconds": 0.1, "notes": [],
    }  # fmt: skip
    return {**given, **changes}


MANIFEST: dict[str, Any] = {
    "format_version": 1,
    "created": "2026-01-02T03:04:05+00:00",
    "gossamer_version": "0.1.0",
    "parent": {"name": "parent-1B", "sha256": "ab" * 32, "size_bytes": 98_000_000, "bf16_bytes": 40_000},
    "recipe": {"name": "sparse50-int4"},
    "recipe_yaml": "steps:\n  - {layers: '*', method: sparsegpt}\n",
    "calibration": {"source": "wiki.txt", "fingerprint": "f00d", "num_samples": 32, "length": 512, "seed": 7},
    "layers": [
        layer(0, "attn.q", relative_error=0.01),
        layer(0, "mlp.up", relative_error=0.03, notes=["2 dead inputs"]),
        layer(1, "attn.q", relative_error=0.03, notes=["2 dead inputs"]),
        layer(1, "mlp.up", relative_error=0.05, sparsity=0.7),
        layer(None, "embed", sparsity=0.0, bits=8, format="integer", bytes=5000),
    ],
    "size": {
        "total_bytes": 20_000,
        "weights_bytes": 16_000,
        "by_part": {"embeddings": 5000, "attention": 5000, "mlp": 5000, "norms": 1000, "other": 0},
        "parent_by_part": {"embeddings": 10000, "attention": 15000, "mlp": 14000, "norms": 1000, "other": 0},
    },
    "run": {"seconds": 201.0, "peak_memory_bytes": 1.62e9, "threads": 2, "cpu": "Z80"},
    "notes": ["windows were shortened"],
    "measured": {
        "evaluation": {
            "perplexity": 48.0, "parent_perplexity": 24.0, "perplexity_ratio_ci95": [1.9, 2.1],
            "bits_per_byte": 1.25, "kl_mean": 0.7, "top1_agreement": 0.625, "cosine_mean": 0.98765,
            "perplexity_signature": "wiki, 1024 tokens",
        },
        "benchmark": {
            "threads": 2, "prompt_tokens": 64, "repeats": 5, "noisy": False,
            "decode_tokens_per_s": 60.0, "prefill_tokens_per_s": 600.0, "load_seconds": 0.5,
            "peak_memory_bytes": 5e8, "weight_bytes_per_token": 7e7, "roofline_share": 0.31,
            "against": {"decode_tokens_per_s": 24.0, "prefill_tokens_per_s": 900.0, "load_seconds": 2.0},
            "ratios": {
                "decode": {"ratio": 2.5, "low": 2.25, "high": 2.75},
                "prefill": {"ratio": 0.5, "low": 0.4, "high": 0.8},
            },
        },
    },
}  # fmt: skip


def changed(**changes: Any) -> dict[str, Any]:
    return {**deepcopy(MANIFEST), **changes}


class Page(HTMLParser):
    """A page as a browser would take it apart: its elements, its scripts, its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag == "script" and (self.scripts == [] or self.scripts[-1][0] is not attributes):
            self.scripts.append((attributes, data))
        elif tag == "script" and data.strip() and not self.scripts[-1][1].endswith(data):
            self.text += data
        else:
            self.text += data

    @property
    def figures(self) -> dict[str, Any]:
        return {
            str(a["id"]): json.loads(data) for a, data in self.scripts if a.get("type") == "application/json"
        }
