"""Recipes from YAML: strict about keys and values, with the line on which a mistake stands."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from gossamer.errors import RecipeError
from gossamer.methods.solve.target import PruneTarget
from gossamer.recipe.recipe import Calibration, Recipe, Step
from gossamer.recipe.table import METHODS, Method

RECIPE_FOLDER = Path(__file__).parent / "shipped"
FORMER_KEYS = {"aim": "align"}
"""Keys of `calibration` as recipes of version 0.1 had them."""

Place = tuple[str | int, ...]
"""Keys and indices that lead to a value."""
M = TypeVar("M", bound=BaseModel)


def shipped_recipes() -> dict[str, Recipe]:
    """The recipes that come with the package, by name."""
    return {path.stem: load_recipe(str(path)) for path in sorted(RECIPE_FOLDER.glob("*.yaml"))}


def load_recipe(name_or_path: "str | Recipe") -> Recipe:
    """Read a shipped recipe by its name, or a YAML file by its path.

    Raises:
        RecipeError: no such recipe, not YAML, or a recipe that cannot be meant.
    """
    if isinstance(name_or_path, Recipe):
        return name_or_path
    path = Path(name_or_path)
    if not path.is_file():
        shipped = RECIPE_FOLDER / f"{name_or_path}.yaml"
        if not shipped.is_file():
            names = sorted(file.stem for file in RECIPE_FOLDER.glob("*.yaml"))
            raise RecipeError(
                f"recipe '{name_or_path}': neither a file nor a shipped recipe.{_nearest(str(name_or_path), names)} "
                f"Shipped: {', '.join(names)}."
            )
        path = shipped
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path}: cannot be read as UTF-8 text ({error}).") from error
    return parse_recipe(text, where=path.name)


def parse_recipe(text: str, where: str = "recipe") -> Recipe:
    """Build a recipe from YAML text; `where` names it in errors."""
    return _Reader(text, where).recipe()


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


class _Reader:
    """Reads YAML while remembering on which line each value stood, so that errors can say so."""

    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self.lines: dict[Place, int] = {}
        self.num_nodes = 0
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            data = None if node is None else self._value(node, (), 0)
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates and integers raise ValueErrors
            raise RecipeError(f"{where}: not valid YAML: {error!s:.400}") from error
        if not isinstance(data, dict):
            raise RecipeError(f"{where}: expected a table with `steps:`, got {type(data).__name__}.")
        self.data = data

    def recipe(self) -> Recipe:
        self._check_keys(self.data, ("description", "calibration", "steps", "skip"), ())
        steps = self.data.get("steps")
        if not isinstance(steps, list) or not steps:
            raise self._error(("steps",), "`steps:` must be a list with at least one step")
        return Recipe(
            steps=tuple(self._step(step, index) for index, step in enumerate(steps)),
            calibration=self._model(Calibration, self._table("calibration"), ("calibration",)),
            skip=self._globs(self.data.get("skip") or [], ("skip",)),
            description=str(self.data.get("description") or "").strip(),
        )

    def _step(self, data: object, index: int) -> Step:
        place = ("steps", index)
        if not isinstance(data, dict):
            raise self._error(
                place, f"a step is a table such as {{layers: '*', method: wanda}}, got {data!r}"
            )
        fields = dict(data)
        name = fields.pop("method", None)
        if not isinstance(name, str) or name not in METHODS:
            got = "is missing" if name is None else f"{name!r} is unknown."
            hint = _nearest(str(name), METHODS)
            known = ", ".join(METHODS)
            raise self._error((*place, "method"), f"`method` {got}{hint} Known methods: {known}")
        method = METHODS[name]
        layers = self._globs(fields.pop("layers", "*"), (*place, "layers"))
        self._check_keys(fields, ("layers", "method", *method.settings.__pydantic_fields__), place)
        by_glob: tuple[tuple[str, float], ...] = ()
        if isinstance(fields.get("sparsity"), dict):
            by_glob = self._sparsity_table(method, fields, (*place, "sparsity"))
            fields["sparsity"] = by_glob[0][1]
        return Step(layers, name, self._model(method.settings, fields, place), by_glob)

    def _sparsity_table(
        self, method: Method, fields: dict[str, Any], place: Place
    ) -> tuple[tuple[str, float], ...]:
        """The sparsity that each glob is given, in the order of the recipe."""
        rows = []
        for glob, value in fields["sparsity"].items():
            settings = self._model(method.settings, {**fields, "sparsity": value}, (*place, glob))
            assert isinstance(settings, PruneTarget)  # it has the key
            if settings.sparsity is None:
                raise self._error((*place, glob), f"`sparsity` of '{glob}' has no value")
            rows.append((glob, settings.sparsity))
        if not rows:
            raise self._error(place, "`sparsity` is an empty table: give a number, or globs with numbers")
        return tuple(rows)

    def _globs(self, value: object, place: Place) -> tuple[str, ...]:
        values = [value] if isinstance(value, str) else value
        whole = isinstance(values, list) and all(isinstance(glob, str) and glob for glob in values)
        if not isinstance(values, list) or not whole or (not values and place != ("skip",)):
            raise self._error(place, f"expected a glob such as '*.mlp.*' or a list of them, got {value!r}")
        return tuple(values)

    def _table(self, key: str) -> dict[str, Any]:
        value = self.data.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._error((key,), f"`{key}` must be a table, got {value!r}")
        for former, name in FORMER_KEYS.items():
            if former in value and name in value:
                raise self._error(
                    (key, former), f"'{former}' is the former name of '{name}': give one of them"
                )
        value = {FORMER_KEYS.get(name, name): each for name, each in value.items()}
        self._check_keys(value, Calibration.__pydantic_fields__, (key,))
        return value

    def _check_keys(self, data: dict[str, Any], known: Iterable[str], place: Place) -> None:
        for key in data:
            if key not in known:
                hint = _nearest(str(key), known)
                raise self._error((*place, key), f"unknown key '{key}'.{hint} Known keys: {', '.join(known)}")

    def _model(self, model: type[M], data: dict[str, Any], place: Place) -> M:
        try:
            return model(**data)
        except ValidationError as error:
            first = error.errors()[0]
            key = [part for part in first["loc"] if isinstance(part, str)]
            message = first["msg"].removeprefix("Value error, ")
            got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
            raise self._error(
                (*place, *key), f"`{'.'.join(key) or model.__name__}`: {message}{got}"
            ) from error
        except RecipeError as error:
            raise self._error(place, str(error)) from error

    def _error(self, place: Place, message: str) -> RecipeError:
        known = place
        while known and known not in self.lines:
            known = known[:-1]
        line = self.lines.get(known, 1)
        index = place[1] if place[:1] == ("steps",) and len(place) > 1 else None
        step = f", step {index + 1}" if isinstance(index, int) else ""
        return RecipeError(f"{self.where}, line {line}{step}: {message.rstrip('.')}.")

    def _value(self, node: yaml.Node, place: Place, depth: int) -> Any:
        self.num_nodes += 1
        if depth > 20 or self.num_nodes > 10_000:
            raise RecipeError(f"{self.where}, line {node.start_mark.line + 1}: too large for a recipe.")
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            table: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key = self._value(key_node, (*place, "key"), depth + 1)
                if not isinstance(key, str) or key in table:
                    line = key_node.start_mark.line + 1
                    raise RecipeError(f"{self.where}, line {line}: key {key!r} is repeated or not a word.")
                self.lines[(*place, key)] = key_node.start_mark.line + 1
                table[key] = self._value(value_node, (*place, key), depth + 1)
            return table
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*place, i), depth + 1) for i, item in enumerate(node.value)]
        return yaml.SafeLoader("").construct_object(node, deep=True)
