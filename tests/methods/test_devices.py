"""Every method works where the weight and the statistic are, and finds there what it finds on the CPU."""

from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from gossamer.calibration.statistics import Gram, Moments, Statistic
from gossamer.formats.choose import pack
from gossamer.methods.allocate.allocation import outlier_share, owl
from gossamer.methods.allocate.saliency import (
    SharedSparsity,
    output_importance,
    rounding_cost,
    shared_windows,
    window_gains,
)
from gossamer.methods.magnitude import GlobalThreshold
from gossamer.methods.solve.align import aligned
from gossamer.methods.solve.error import check_packed, relative_output_error
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.target import PruneTarget
from gossamer.recipe.table import METHODS
from tests.away import away
from tests.methods.cases import weight_and_gram

ROWS, INPUTS = 24, 64
PATTERNS = ("unstructured", "row", "2:4", "rows " + ",".join(["4", "8", "12"] * 8) + ":16", "block 4x16")
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "threshold": [{"threshold": 0.03}],
    "magnitude": [{"scope": "global"}],
    "svd": [{}],
    "refit": [{}],
    "rtn": [{}, {"symmetric": False, "group_size": 32, "bits": 3}, {"group_size": None}],
    "gptq": [{}, {"symmetric": False, "group_size": 32, "bits": 3}, {"act_order": False}],
    "eora": [{"rank": 3}],
}
"""Of each method beside those of a pattern."""
CASES = [
    (name, settings)
    for name, method in METHODS.items()
    if not method.trains
    for settings in (
        *SETTINGS.get(name, []),
        *({"pattern": each} for each in PATTERNS if issubclass(method.settings, PruneTarget)),
    )
    if not (name == "swaps" and settings["pattern"].startswith("block"))  # refused
]


def moved(value: Any, device: torch.device) -> Any:
    """A copy of an object, and of what it is made of, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{each.name: moved(getattr(value, each.name), device) for each in fields(value)})
    if isinstance(value, Gram):
        copy = type(value)(value.num_inputs, device)
        vars(copy).update({key: moved(each, device) for key, each in vars(value).items()})
        return copy
    return value


def assert_equal(found: Any, expected: Any) -> None:
    """Bit for bit, whichever device each is on."""
    if isinstance(expected, Tensor):
        assert torch.equal(found.cpu(), expected)
    elif is_dataclass(expected):
        for each in fields(expected):
            assert_equal(getattr(found, each.name), getattr(expected, each.name))
    else:
        assert found == expected


@pytest.mark.parametrize(("name", "settings"), CASES, ids=lambda each: str(each)[:40])
def test_a_method_finds_on_another_device_what_it_finds_on_the_cpu(
    name: str, settings: dict[str, Any]
) -> None:
    method = METHODS[name]
    few = {key: 3 for key in ("iterations", "swaps", "refit") if key in method.settings.model_fields}
    chosen = method.settings(**settings, **few)
    weight_OI, gram = weight_and_gram(ROWS, INPUTS)
    layer = LayerWeight(weight_OI).pruned(weight_OI.abs() > 0.01)
    if method.corrects:
        layer = METHODS["rtn"].apply(layer, None, METHODS["rtn"].settings(), [])
    notes: list[str] = []
    expected = method.apply(layer, _evidence(settings, gram, weight_OI), chosen, notes)
    with away() as device:
        said: list[str] = []
        there = moved(layer, device)
        evidence = _evidence(settings, moved(gram, device), weight_OI.to(device))
        found = method.apply(there, evidence, chosen, said)
        assert found.weight_OI.device == device
        assert_equal(found, expected)
        assert said == notes


def _evidence(settings: dict[str, Any], gram: Gram, weight_OI: Tensor) -> Statistic | GlobalThreshold:
    if settings.get("scope") != "global":
        return gram
    threshold = GlobalThreshold(0.5)
    threshold.update(weight_OI)
    threshold.refine()
    threshold.update(weight_OI)
    return threshold


PACKED = {
    "bitmask": ("sparsegpt", {}, {}),
    "nm": ("sparsegpt", {"pattern": "4:16"}, {"bits": 4}),
    "block": ("sparsegpt", {"pattern": "block 4x16"}, None),
    "integer": (None, {}, {"bits": 3}),
    "low_rank": ("basil", {}, {"bits": 4}),
    "dense": (None, {}, None),
}


@pytest.mark.parametrize("form", PACKED)
def test_a_layer_is_packed_where_it_is_into_the_same_bytes(form: str) -> None:
    pruner, pruning, rounding = PACKED[form]
    weight_OI, gram = weight_and_gram(ROWS, INPUTS)
    layer = LayerWeight(weight_OI)
    if pruner is not None:
        layer = METHODS[pruner].apply(layer, gram, METHODS[pruner].settings(**pruning), [])
    if rounding is not None:
        layer = METHODS["rtn"].apply(layer, None, METHODS["rtn"].settings(**rounding), [])
    parts = (layer.weight_OI, layer.mask_OI, layer.quantized, torch.bfloat16, layer.factors)
    expected = pack(*parts)
    assert expected.format == form
    with away() as device:
        found = pack(*(moved(each, device) for each in parts))
        assert found.meta() == expected.meta()
        for name, tensor in found.tensors().items():
            assert tensor.device == device
            assert_equal(tensor, expected.tensors()[name])
        assert_equal(found.unpack(), expected.unpack())
        check_packed("layer", moved(layer, device), found.unpack())


def test_what_layers_share_is_found_on_another_device_too() -> None:
    weight_OI, _ = weight_and_gram(ROWS, INPUTS)
    fisher_OI = torch.rand(ROWS, INPUTS, generator=torch.Generator().manual_seed(1))
    expected = _shared(weight_OI, fisher_OI)
    with away() as device:
        assert_equal(_shared(weight_OI.to(device), fisher_OI.to(device)), expected)


def _shared(weight_OI: Tensor, fisher_OI: Tensor) -> list[Any]:
    cost_OI = weight_OI.square() * fisher_OI
    shared = SharedSparsity(0.5)
    shared.add("all", cost_OI)
    shared.add("half", cost_OI[: ROWS // 2])
    gains = {"all": (window_gains(cost_OI, 16), INPUTS), "half": (window_gains(cost_OI[::2], 16), INPUTS)}
    shares = [outlier_share([cost_OI]), outlier_share([weight_OI.abs()])]
    grid = METHODS["gptq"].settings()
    return [
        shared.sparsities(),
        shared_windows(gains, 8, 16),
        output_importance(fisher_OI.sum(1)).tolist(),
        rounding_cost(weight_OI, grid, fisher_OI),  # type: ignore[arg-type]
        shares,
        owl(shares, 0.5),
    ]


def test_a_layer_is_aligned_and_judged_on_another_device() -> None:
    weight_OI, gram = weight_and_gram(ROWS, INPUTS)
    expected = _judged(weight_OI, gram.value(), torch.device("cpu"))
    with away() as device:
        assert_equal(_judged(weight_OI.to(device), gram.value().to(device), device), expected)


def _judged(weight_OI: Tensor, x_TI: Tensor, device: torch.device) -> list[Any]:
    moments = Moments(INPUTS, device)
    moments.update_pair(x_TI, 2 * x_TI)
    moments.update_wanted(x_TI, x_TI[:, :ROWS])
    target_OI = aligned(weight_OI, weight_OI.half().float(), moments, [])
    moments.forget_dense()
    return [target_OI.tolist(), relative_output_error(weight_OI, target_OI, moments.value())]
