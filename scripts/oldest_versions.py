"""Write to stdout the lowest versions that pyproject.toml allows, a line each: what `make test-oldest` installs."""

import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def oldest_versions(pyproject: str) -> list[str]:
    """Return "name==version" for every ">=" in the text of a pyproject.toml: of the build, the program and its extras.

    Without torch: `make` takes the same build of it for all versions of the others.
    """
    tables = tomllib.loads(pyproject)
    project = tables["project"]
    groups = [
        tables["build-system"]["requires"],
        project["dependencies"],
        *project["optional-dependencies"].values(),
    ]
    lowest = [requirement.split(",")[0].replace(">=", "==") for group in groups for requirement in group]
    return [pin for pin in lowest if not pin.startswith("torch==")]


if __name__ == "__main__":
    sys.stdout.writelines(f"{pin}\n" for pin in oldest_versions(PYPROJECT.read_text(encoding="utf-8")))
