"""The dense model in memory, in which matrices are replaced for a moment by cheap proxies of what compression gives.

Proxy of a level: pruned by Wanda's score and rounded to nearest without a search, which takes milliseconds. The real
method (ADMM, GPTQ) does better; how much is measured on a few matrices (`sensitivity.discounts`), and the proxy's
error is scaled to that size:

    W + sqrt(discount) (cheap(W) - W)

A low-rank part is in the discount alone: the share of the error that it gives back hardly differs between matrices,
while what it would give back to the cheap form says little about that (docs/log.md).

The measure is KL(dense || changed) in nats, mean over the tokens of a few windows.

O output features, I input features, N windows, L tokens in a window, V entries of the vocabulary.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gossamer.calibration.observe import BlockRunner, observed
from gossamer.calibration.statistics import Gram, InputNorm
from gossamer.checkpoint.source import Source
from gossamer.evaluation.quality.divergence import divergence
from gossamer.frontier.levels import Level
from gossamer.methods.solve.grid import float16_holds, quantize
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.pattern import RowBalanced, Unstructured


class ProxyModel:
    """The dense model, what it says about the windows, and the norms of the inputs of its linears."""

    def __init__(self, source: Source, ids_NL: Tensor) -> None:
        self.model: PreTrainedModel = source.load_dense(torch.float32)
        self.model.config.use_cache = False
        self.parts = source.architecture
        self.runner = BlockRunner(self.model, [{"input_ids": ids_L[None]} for ids_L in ids_NL])
        linears = {
            name: self.module(name) for block in self.parts.blocks for name in self.parts.linears(block)
        }
        with observed({name: (module, InputNorm) for name, module in linears.items()}) as norms:
            self.dense_NLV = [output.logits[0] for output in self.runner.outputs()]
        outside = (self.parts.token_embedding, self.parts.output_head)
        self._dense = {
            name: self.parts.matrix(name).holder(self.model).data
            for name in (*linears, *filter(None, outside))
        }
        self.norm_I: dict[str, Tensor] = {name: norms[name].value() for name in linears if name in norms}

    def use(self, windows: int) -> None:
        """From now on look at the first windows only."""
        self.runner.batches, self.dense_NLV = self.runner.batches[:windows], self.dense_NLV[:windows]

    def module(self, name: str) -> nn.Module:
        module: nn.Module = self.model.get_submodule(name)
        return module

    def weight(self, name: str) -> Tensor:
        """The dense weight_OI of a matrix, whatever is in its place."""
        return self.parts.matrix(name).from_stored(self._dense[name])

    def kl(self, windows: int | None = None) -> float:
        """Return KL(dense || the model as it is now), over the first windows only if so asked."""
        sums, count = 0.0, 0
        for dense_LV, output in zip(self.dense_NLV, islice(self.runner.outputs(), windows), strict=False):
            kl_L, _ = divergence(dense_LV[:-1], output.logits[0, :-1])
            sums, count = sums + float(kl_L.double().sum()), count + len(kl_L)
        return max(sums / count, 0.0)

    @contextmanager
    def replaced(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """While open, the named matrices hold other weights_OI; what is tied to them does too."""
        matrices = [self.parts.matrix(name) for name in weights]
        before = [(parameter := each.holder(self.model), parameter.data) for each in matrices]
        try:
            for matrix, weight_OI in zip(matrices, weights.values(), strict=True):
                matrix.put(self.model, weight_OI)
            yield
        finally:
            for parameter, data in before:
                parameter.data = data

    def grams(self, block: str, names: tuple[str, ...], ids_NL: Tensor) -> dict[str, Gram]:
        """Return the Gram statistics of the inputs of a few linears of a block on other windows."""
        runner = BlockRunner(self.model, [{"input_ids": ids_L[None]} for ids_L in ids_NL])
        with observed({name: (self.module(name), Gram) for name in names}) as statistics:
            runner.run(block)
        return {name: each for name, each in statistics.items() if isinstance(each, Gram)}

    def cheap(self, name: str, level: Level) -> Tensor:
        """Return weight_OI as the level's cheap form has it."""
        return cheap_weight(self.weight(name), level, self.norm_I.get(name))

    def error(self, name: str, weight_OI: Tensor) -> float:
        """Return the share of the output's energy that is lost, inputs taken as uncorrelated."""
        dense_OI = self.weight(name)
        norm_I = self.norm_I.get(name, torch.ones(()))
        lost = float(((dense_OI - weight_OI) * norm_I).double().square().sum())
        total = float((dense_OI * norm_I).double().square().sum())
        return lost / total if total else 0.0


def cheap_weight(weight_OI: Tensor, level: Level, norm_I: Tensor | None) -> Tensor:
    """Return the weight pruned by Wanda's score and rounded to nearest, without a low-rank part."""
    layer = LayerWeight(weight_OI)
    if level.target is not None:
        score_OI = weight_OI.abs() if norm_I is None else weight_OI.abs() * norm_I
        pattern = level.target.pattern
        pattern = RowBalanced() if isinstance(pattern, Unstructured) else pattern
        layer = layer.pruned(pattern.keep_largest(score_OI, level.target.share))
    grid = level.grid.model_copy(update={"search": False})
    if not float16_holds(layer.weight_OI, grid, []):
        return layer.weight_OI
    return layer.with_codes(quantize(layer.weight_OI, grid, mask_OI=layer.mask_OI)).weight_OI


def scaled(dense_OI: Tensor, cheap_OI: Tensor, discount: float) -> Tensor:
    """Return the proxy whose error is `discount` times that of the cheap weight."""
    return torch.lerp(dense_OI, cheap_OI, discount**0.5)
