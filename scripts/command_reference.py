"""Write the parts of the documentation that the program knows best; `--check` only says which are out of date.

docs/commands.md    the `--help` of every command
docs/recipes.md     between markers: the shipped recipes, and the settings of every method
"""

import json
import re
import sys
from pathlib import Path

import typer
from pydantic import BaseModel

from gossamer.cli.app import app
from gossamer.recipe.reader import RECIPE_FOLDER, shipped_recipes
from gossamer.recipe.recipe import Calibration
from gossamer.recipe.table import METHODS

DOCS = Path(__file__).parents[1] / "docs"
WIDTH = 100
"""Columns of the help texts, whatever the terminal."""

COMMANDS_HEAD = """\
# Commands

Written by `make docs` from the program's own help; a test compares the two.

Every command prints its result on stdout (`--json` for machines) and its progress on stderr. Exit codes: 0 done, 1 a
check failed (`evaluate --max-ratio`, a `search` that missed its budget), 2 wrong use or bad input, 130 interrupted.
Errors are one message without a traceback; `gossamer --debug COMMAND ...` shows it.
"""


def commands_page() -> str:
    """Return docs/commands.md."""
    group = typer.main.get_command(app)
    context = group.context_class(group, info_name="gossamer", terminal_width=WIDTH)
    parts = [COMMANDS_HEAD, _help_section("gossamer", group.get_help(context))]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        below = command.context_class(command, info_name=name, parent=context, terminal_width=WIDTH)
        parts.append(_help_section(f"gossamer {name}", command.get_help(below)))
    return "\n".join(parts)


def _help_section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


def shipped_table() -> str:
    """Return the shipped recipes: what each does, and its whole text."""
    parts = []
    for name, recipe in shipped_recipes().items():
        lines = (RECIPE_FOLDER / f"{name}.yaml").read_text(encoding="utf-8").strip().splitlines()
        body = "\n".join(line for line in lines if not line.startswith("description:"))
        parts.append(f"`{name}`: {recipe.description}\n\n```yaml\n{body}\n```\n")
    return "\n".join(parts)


def settings_tables() -> str:
    """Return a table of the settings of every method."""
    parts = []
    for name, method in METHODS.items():
        parts.append(f"### {name}\n\n{_settings_table(method.settings)}\n")
    return "\n".join(parts)


def calibration_table() -> str:
    """Return a table of what `calibration` may hold."""
    return _settings_table(Calibration) + "\n"


def _settings_table(settings: type[BaseModel]) -> str:
    schema = settings.model_json_schema()
    described = any("description" in declared for declared in schema["properties"].values())
    rows = ["| key | values | default |" + " |" * described, "|---|---|---|" + "---|" * described]
    for key, declared in schema["properties"].items():
        default = json.dumps(declared["default"]) if "default" in declared else "required"
        if key == "pattern":  # an object in the program, text in a recipe
            default = str(settings.model_fields[key].default)
        about = " ".join(declared.get("description", "").split()).replace("|", r"\|")
        rows.append(f"| `{key}` | {_values(declared)} | `{default}` |" + f" {about} |" * described)
    return "\n".join(rows)


_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "multiple of {}",
}


def _values(declared: dict[str, object]) -> str:
    """Say in words what a JSON schema allows."""
    if "anyOf" in declared:
        return " or ".join(_values(each) for each in declared["anyOf"])  # type: ignore[attr-defined]
    if "enum" in declared:
        return " or ".join(f"`{value}`" for value in declared["enum"])  # type: ignore[attr-defined]
    limits = [words.format(f"{declared[key]:g}") for key, words in _LIMITS.items() if key in declared]
    return ", ".join([str(declared["type"]), *limits])


PARTS = {"shipped recipes": shipped_table, "settings": settings_tables, "calibration": calibration_table}


def with_generated_parts(page: str) -> str:
    """Return the page with what lies between each pair of markers written anew; ValueError for a missing pair."""
    for name, write in PARTS.items():
        opening, closing = f"<!-- generated: {name} -->\n", f"<!-- /generated: {name} -->"
        pattern = re.escape(opening) + ".*?" + re.escape(closing)
        new = f"{opening}\n{write()}\n{closing}"
        page, found = re.subn(pattern, lambda _match, new=new: new, page, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"recipes.md: expected one pair of markers for {name!r}, found {found}")
    return page


def pages() -> dict[Path, str]:
    """Return what the generated pages should be."""
    recipes = DOCS / "recipes.md"
    return {
        DOCS / "commands.md": commands_page(),
        recipes: with_generated_parts(recipes.read_text(encoding="utf-8")),
    }


def out_of_date() -> list[Path]:
    """Return the pages that differ from what the program says."""
    return [
        path
        for path, text in pages().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write the pages, or with `--check` return 1 if one is out of date."""
    if sys.argv[1:] not in ([], ["--check"]):
        sys.stderr.write("usage: command_reference.py [--check]\n")
        return 2
    stale = out_of_date()
    if "--check" in sys.argv:
        for path in stale:
            sys.stderr.write(f"{path.name} is out of date: run `make docs`\n")
        return 1 if stale else 0
    texts = pages()
    for path in stale:
        path.write_text(texts[path], encoding="utf-8")
        sys.stderr.write(f"wrote {path.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
