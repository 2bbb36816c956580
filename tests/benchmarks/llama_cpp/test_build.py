"""Which builds of llama.cpp are tried, and which one is taken."""

from pathlib import Path

import pytest

from benchmarks.llama_cpp import build as building
from benchmarks.llama_cpp.build import Build, candidates, tenths
from gossamer.errors import RunError

SMALL = {"sse4_2", "avx", "avx2", "fma", "f16c", "bmi2"}


def test_the_native_build_is_tried_first_then_all_that_the_processor_says_but_tiles_then_avx2() -> None:
    native, large, small = candidates("best", SMALL | {"avx512f", "avx512_vnni", "amx_tile", "amx_int8"})
    assert native == ("-DGGML_NATIVE=ON",)
    assert small == candidates("avx2", SMALL)[0]
    assert large == (*small, "-DGGML_AVX512=ON", "-DGGML_AVX512_VNNI=ON")
    assert not any("AMX" in flag or "AVX512" in flag for flag in small)


def test_a_processor_without_avx2_has_the_native_build_alone() -> None:
    assert candidates("best", {"asimd", "asimddp"}) == [("-DGGML_NATIVE=ON",)]


def test_progress_is_read_from_ninja_and_from_make() -> None:
    assert [tenths(line) for line in ("[30/149] Building", "[ 40%] Building", "[100%] Linking", "-- x")] == [
        2, 4, 10, None,
    ]  # fmt: skip


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Builds that were made; each is a folder of empty files."""
    made: list[tuple[str, ...]] = []

    def compile_tools(_source: Path, build: Build, _whole: Path | None, _say: object) -> None:
        made.append(build.flags)
        for name in building.TOOLS:
            build.tool(name).parent.mkdir(parents=True, exist_ok=True)
            build.tool(name).touch()

    monkeypatch.setattr(building, "compile_tools", compile_tools)
    monkeypatch.setattr(building, "fetch_source", lambda *_: Path("source"))
    monkeypatch.setattr(building, "processor_flags", lambda: SMALL | {"avx512f"})
    return made


def test_a_build_that_dies_is_told_and_the_next_smaller_one_is_taken_once(
    compiled: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        building, "small_run", lambda build: "dies of SIGILL" if "NATIVE=ON" in build.flags[0] else None
    )
    told: list[str] = []
    build = building.built("best", told.append, tmp_path)
    assert "-DGGML_AVX512=ON" in build.flags
    assert build.died == ("-DGGML_NATIVE=ON: dies of SIGILL",)
    assert any("dies of SIGILL" in line for line in told)
    assert building.built("best", told.append, tmp_path) == build
    assert len(compiled) == 2


def test_where_nothing_runs_that_is_an_error(
    compiled: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "small_run", lambda _: "ends with exit code 1")
    with pytest.raises(RunError, match=r"avx2 runs here: .*exit code 1"):
        building.built("avx2", lambda _: None, tmp_path)


def test_a_command_that_fails_shows_its_last_lines() -> None:
    with pytest.raises(RunError, match="it broke"):
        building.run_told(["sh", "-c", "echo it broke; exit 2"], lambda _: None)
