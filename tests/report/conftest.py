"""A small script in plotly's place: the real one is megabytes."""

import pytest

from gossamer.report import html


@pytest.fixture(autouse=True)
def small_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "get_plotlyjs", lambda: "window.Plotly = {};")
