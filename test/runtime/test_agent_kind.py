"""Telling from a file of settings whose they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from wm_ros.contract import resources
from wm_ros.contract.errors import UserError
from wm_ros.runtime.agent_kind import SOURCES, kind_of


def test_every_shipped_agent_has_somebody_who_runs_its_controllers() -> None:
    shipped = sorted(p.stem for p in (resources.share_directory() / "config" / "agents").glob("*.yaml"))
    assert {name: SOURCES[kind_of(name)] for name in ("pets", "sac")} == {"pets": "mpc", "sac": "policy"}
    assert all(kind_of(name) in SOURCES for name in shipped)


@pytest.mark.parametrize(("text", "kind"), [("sac: {width: 8}", "sac"), ("pets: {stride: 2}", "pets"), ("fit: {steps: 40}", "pets")])
def test_a_file_is_for_the_agent_whose_section_it_has(tmp_path: Path, text: str, kind: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert kind_of(path) == kind


def test_the_shipped_dreamer_drives_as_a_policy() -> None:
    assert SOURCES[kind_of("dreamer")] == "policy"


@pytest.mark.parametrize(("text", "words"), [("sac: {}\npets: {}", "pets and sac"), ("sac: [", "not readable as YAML")])
def test_a_file_that_is_for_nobody_is_refused_with_its_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as refused:
        kind_of(path)
    assert str(path) in str(refused.value)
