"""Fetching from the hub: a download shows how far it is, though transformers' own bars are off."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.utils import are_progress_bars_disabled

from gossamer.checkpoint.read.hub import fetch
from gossamer.checkpoint.read.quiet import quiet


def test_a_download_shows_its_bars_and_reading_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def download(**_options: object) -> str:
        seen.append(are_progress_bars_disabled())
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with quiet():
        assert fetch("owner/name") == tmp_path
        assert are_progress_bars_disabled()
    assert seen == [False]
