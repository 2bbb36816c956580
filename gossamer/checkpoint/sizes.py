"""Where the bytes of a model are: attention, mlp, norms, embeddings."""

from collections.abc import Iterable, Mapping

from torch import nn


def parent_bytes(skeleton: nn.Module, norms: Iterable[str]) -> dict[str, int]:
    """Bytes of each part of the dense model in bfloat16."""
    return by_part({name: 2 * parameter.numel() for name, parameter in skeleton.named_parameters()}, norms)


def by_part(bytes_by_name: Mapping[str, int], norms: Iterable[str]) -> dict[str, int]:
    """Sum the bytes of tensors by the part of the model that they belong to."""
    total: dict[str, int] = {}
    for name, num_bytes in bytes_by_name.items():
        part = _part(name, norms)
        total[part] = total.get(part, 0) + num_bytes
    return total


def _part(name: str, norms: Iterable[str]) -> str:
    """Which part of the model a tensor belongs to, for the size breakdown."""
    module = name.rpartition(".")[0]
    lower = name.lower()
    if module in norms:
        return "norms"
    if "attn" in lower or "attention" in lower:
        return "attention"
    if "embed" in lower or lower.startswith(("shared.", "lm_head.", "transformer.wte", "transformer.wpe")):
        return "embeddings"
    if any(component.isdigit() for component in module.split(".")):
        return "mlp"
    return "other"
