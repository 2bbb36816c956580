"""The thresholds that are one for all layers: `magnitude` with `scope: global`."""

from gossamer.checkpoint.source import Source
from gossamer.methods.magnitude import GlobalThreshold, Magnitude
from gossamer.progress import Progress
from gossamer.recipe.recipe import Step


def global_thresholds(
    source: Source, linears: dict[str, tuple[Step, ...]], progress: Progress
) -> dict[Step, GlobalThreshold]:
    """One threshold over all layers of each step with `scope: global`, in two readings of the weights."""
    thresholds: dict[Step, GlobalThreshold] = {}
    for steps in linears.values():
        for step in steps[:1]:
            if isinstance(step.settings, Magnitude) and step.settings.scope == "global":
                thresholds[step] = GlobalThreshold(step.settings.share)
    blocks = source.architecture.blocks if thresholds else ()
    for reading in range(2):
        for number, block in enumerate(blocks):
            progress("finding the global threshold", reading * len(blocks) + number, 2 * len(blocks))
            module = source.materialise(block)
            for name in source.architecture.linears(block):
                for step in linears.get(name, ())[:1]:
                    if step in thresholds:
                        matrix = source.architecture.matrix(name).below(block)
                        thresholds[step].update(matrix.get(module))
        for threshold in thresholds.values() if reading == 0 else ():
            threshold.refine()
    return thresholds
