"""Where the time of a run went."""

import time
from pathlib import Path

import pytest

from gossamer.compression import phase_clock
from gossamer.compression.phase_clock import PhaseClock
from tests.compression.runs import small_run
from tests.conftest import CALIBRATION, RECIPE


def test_a_phase_inside_another_one_stops_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = PhaseClock({"outer": 10.0})
    now[0] += 50.0
    with clock.phase("outer"):
        now[0] += 1.0
        with clock.phase("inner"):
            now[0] += 2.0
        now[0] += 4.0
        assert clock.seconds() == {"outer": 15.0, "inner": 2.0}
    now[0] += 50.0
    assert clock.seconds() == {"outer": 15.0, "inner": 2.0}


def test_the_manifest_tells_all_of_the_time_by_phase(parent, text: Path, tmp_path: Path) -> None:
    run = small_run(parent("llama"), RECIPE, tmp_path / "out", text=str(text), **CALIBRATION)["run"]
    phases = run["seconds_by_phase"]
    assert set(phases) == {
        phase_clock.READ, phase_clock.SHARE_OUT, phase_clock.RUN_DENSE, phase_clock.OBSERVE, phase_clock.SOLVE,
        phase_clock.RUN, phase_clock.WRITE, phase_clock.CHECK, phase_clock.OTHER,
    }  # fmt: skip
    assert all(seconds >= 0 for seconds in phases.values())
    assert sum(phases.values()) == pytest.approx(run["seconds"], rel=0.05)
