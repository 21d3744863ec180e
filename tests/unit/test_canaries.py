"""The search itself: what it must find, and that it never finds nothing for want of looking."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.canaries import found

CANARY = "canary0f3b9a77"


@pytest.mark.parametrize("before", ["", "a", "ab", "abc", "bot:"])
@pytest.mark.parametrize("after", ["", "z", "zy", "zyx"])
def test_found_in_every_form(before: str, after: str) -> None:
    text = before + CANARY + after
    for place in (text, text.encode(), text.encode().hex(), base64.b64encode(text.encode())):
        assert found([CANARY], place), place


def test_found_in_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "worker.log").write_text(f"a line\nwith {CANARY} in it\n")
    (line,) = found([CANARY, "another"], tmp_path)
    assert line.startswith(f"{CANARY} in {tmp_path}/below/worker.log: ")
    assert found([CANARY], tmp_path / "below" / "worker.log")


def test_not_found_where_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_bytes(b"\xff\x00 nothing")
    assert found([CANARY], tmp_path, "canary", b"0f3b9a77", base64.b64encode(b"canary0f")) == []


def test_to_look_nowhere_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="nowhere to look"):
        found([CANARY])
    with pytest.raises(AssertionError, match="nothing to look for"):
        found([], "text")
    with pytest.raises(AssertionError, match="not there"):
        found([CANARY], tmp_path / "none")
    with pytest.raises(AssertionError, match="two words"):
        found(["two words"], "text")
