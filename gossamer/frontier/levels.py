"""The levels that a matrix may be given: bits, groups, sparsity, pattern and rank, as steps of a recipe.

A level has a name that says all (`int4-g64`, `int4-g32-asym`, `int8-row`, `sparse50-int4-g64`, `nm4of16-int4-g64`,
`int4-g64-rank3`: a low-rank part with 3 % of the matrix's parameters), so that an assignment of levels to matrices is a
plain table of words, and a recipe is written from nothing else.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from gossamer.errors import RecipeError
from gossamer.methods.solve.grid import Grid
from gossamer.methods.solve.low_rank import LowRankTarget
from gossamer.methods.solve.target import PruneTarget
from gossamer.recipe.recipe import EMBEDDINGS, HEAD, Calibration, Recipe, Step
from gossamer.recipe.table import METHODS

Assignment = dict[str, str]
"""Matrix -> name of its level."""

DENSE = (
    "int8-row", "int6-g64", "int5-g64", "rtn4-g32-asym", "int4-g32-asym", "int4-g64-asym", "int4-g64",
    "int3-g32-asym", "int3-g64-asym", "int3-g64", "int4-g64-rank3", "int3-g64-rank6",
)  # fmt: skip
"""`rtn4-g32-asym` is for matrices that a Q4_1 file holds: rounded to nearest they stay what they are, whereas GPTQ
first aims at the dense outputs and leaves the grid. For others it loses more than `int4-g32-asym`: never chosen."""
SPARSE = (
    "sparse50-int4-g64", "sparse60-int4-g64", "sparse70-int4-g64", "nm4of8-int4-g64", "nm2of4-int4-g64",
    "nm4of16-int4-g64",
    "sparse50-int4-g64-rank3", "nm4of16-int4-g64-rank3",
)  # fmt: skip
"""Unstructured masks and 8:16 take the same bytes and time at 50 %, so that only the better one is here; 4:8 and 2:4
take the same bytes in less time. A low-rank part is found together with the mask (3BASiL), then fitted again to what
rounding has left (EoRA)."""
OUTSIDE = (
    "rtn8-row", "rtn8-g64", "rtn6-g64", "rtn5-g32", "rtn5-g64", "rtn4-g32-asym", "rtn4-g32", "rtn4-g64",
)  # fmt: skip
"""For embeddings and heads."""
ANCHORS = ("int4-g64", "sparse50-int4-g64")
"""The levels at which every part is measured, as far as there is time: one dense, one sparse."""
GROUP = r"-(row|g\d+)"
"""The part of a name that says how many inputs share a scale."""
_NAME = re.compile(
    r"(?:(?:sparse(?P<percent>[\d.]+)|nm(?P<n>\d+)of(?P<m>\d+))-)?(?P<method>int|rtn)(?P<bits>\d)"
    r"-(?P<group>row|g\d+)(?P<asym>-asym)?(?:-rank(?P<share>\d+(?:\.\d+)?))?"
)


@dataclass(frozen=True)
class Level:
    """One way to compress a matrix."""

    name: str
    steps: tuple[Step, ...]

    @property
    def grid(self) -> Grid:
        """How it is quantized: every level is."""
        return next(step.settings for step in self.steps if isinstance(step.settings, Grid))

    @property
    def target(self) -> PruneTarget | None:
        """How it is pruned, None if it is not."""
        settings = self.steps[0].settings
        return settings if isinstance(settings, PruneTarget) else None

    @property
    def low_rank(self) -> LowRankTarget | None:
        """The rank of its low-rank part, None if it has none."""
        settings = self.steps[-1].settings
        return settings if isinstance(settings, LowRankTarget) else None


@cache
def level(name: str) -> Level:
    """Return the level of this name; RecipeError if it is none."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise RecipeError(
            f"level {name!r:.60}: expected a name such as int4-g64, sparse50-int4-g64 or int4-g64-rank3."
        )
    steps = []
    rank = {"rank_share": float(found["share"]) / 100} if found["share"] else {}
    prune = "basil" if rank else "admm"
    if found["percent"]:
        steps.append(_step(prune, sparsity=float(found["percent"]) / 100, **rank))
    if found["n"]:
        steps.append(_step(prune, pattern=f"{found['n']}:{found['m']}", **rank))
    bits, symmetric = int(found["bits"]), not found["asym"]
    group_size = None if found["group"] == "row" else int(found["group"][1:])
    pruned = {"rounds": 0} if steps and found["method"] == "int" else {}
    method = "gptq" if found["method"] == "int" else "rtn"
    steps.append(_step(method, bits=bits, symmetric=symmetric, group_size=group_size, **pruned))
    if rank:
        steps.append(_step("eora", **rank))
    return Level(name, tuple(steps))


def _step(method: str, **settings: object) -> Step:
    return Step(("*",), method, METHODS[method].settings.model_validate(settings))


def fitting(name: str, num_inputs: int) -> str:
    """Return the level with groups that divide the inputs of a matrix: its own, else of 32, else whole rows."""
    own = re.search(GROUP, name)
    assert own is not None  # every level has groups
    for group in (own[1], "g32"):
        if group == "row" or num_inputs % int(group[1:]) == 0:
            return re.sub(GROUP, f"-{group}", name)
    return re.sub(GROUP, "-row", name)


def options_for(names: Iterable[str], num_inputs: int) -> list[str]:
    """Return the levels that a matrix can have."""
    return list(dict.fromkeys(fitting(name, num_inputs) for name in names))


def is_sparse(name: str) -> bool:
    """True if the level prunes."""
    return level(name).target is not None


def is_low_rank(name: str) -> bool:
    """True if the level has a low-rank part."""
    return level(name).low_rank is not None


def without_rank(name: str) -> str:
    """Return the level without its low-rank part."""
    return name.partition("-rank")[0]


def recipe_of(
    assignment: Mapping[str, str],
    embedding: str | None,
    head: str | None,
    calibration: Calibration,
    description: str = "",
) -> Recipe:
    """Return the recipe that gives every matrix its level.

    Args:
        embedding, head: which of the matrices are the token embedding and the output head.
    """
    outside = {name: word for name, word in ((embedding, EMBEDDINGS), (head, HEAD)) if name is not None}
    linears = [name for name in assignment if name not in outside]
    steps: list[Step] = []
    for chosen in dict.fromkeys(assignment.values()):
        own = [name for name in linears if assignment[name] == chosen]
        others = [outside[name] for name in outside if assignment.get(name) == chosen]
        layers = (*_globs(own, linears), *others)
        steps += [Step(layers, step.method, step.settings) for step in level(chosen).steps]
    return Recipe(tuple(steps), calibration, (), description)


def _globs(own: list[str], every: list[str]) -> tuple[str, ...]:
    """Globs that match `own` of all linears and no other: one for each kind that is whole, else full names."""
    if own and len(own) == len(every):
        return ("*",)
    globs: list[str] = []
    for kind in dict.fromkeys(_kind(name) for name in own):
        members = [name for name in every if name.endswith(f".{kind}")]
        chosen = [name for name in own if _kind(name) == kind]
        whole = len(members) > 1 and set(members) <= set(own)
        globs += [f"*.{kind}"] if whole else chosen
    return tuple(globs)


def _kind(name: str) -> str:
    """What a linear is called within its block: the last part of its name."""
    return name.rpartition(".")[2]


def counts(assignment: Iterable[str]) -> dict[str, int]:
    """How many matrices have each level, most first."""
    names = list(assignment)
    return dict(
        sorted(((name, names.count(name)) for name in set(names)), key=lambda pair: (-pair[1], pair[0]))
    )
