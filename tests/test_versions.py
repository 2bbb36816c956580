"""The lock is in step with pyproject.toml, and the lowest versions are those that it names."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from scripts.oldest_versions import PYPROJECT, oldest_versions

LOCK = Path(__file__).parents[1] / "requirements.lock"


def locked_versions() -> dict[str, list[str]]:
    """Name in lower case to its versions: more than one where they differ by Python."""
    versions: dict[str, list[str]] = {}
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, version = line.split(";")[0].strip().split("==")
            versions.setdefault(name, []).append(version)
    return versions


def test_the_lock_holds_a_version_that_pyproject_allows_of_everything_it_names() -> None:
    tables = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    project = tables["project"]
    named = [*tables["build-system"]["requires"], *project["dependencies"]]
    named += [each for extra in project["optional-dependencies"].values() for each in extra]
    locked = locked_versions()
    for requirement in map(Requirement, named):
        versions = locked.get(requirement.name.lower())
        assert versions, f"{requirement}: not in requirements.lock; renew it with `make lock`"
        for version in versions:
            assert version in requirement.specifier, (
                f"requirements.lock has {requirement.name} {version}: `make lock`"
            )


def test_the_lowest_versions_are_the_bounds_of_the_build_the_program_and_its_extras() -> None:
    text = """
        [build-system]
        requires = ["builder>=0.11"]
        [project]
        dependencies = ["torch>=2.8", "models>=5.0,<6"]
        optional-dependencies = { dev = ["checker>=8.3"], more = ["data>=4"] }
    """
    assert oldest_versions(text) == ["builder==0.11", "models==5.0", "checker==8.3", "data==4"]
