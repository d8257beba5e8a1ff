"""The cheap look for plugins never says no where `importlib.metadata` finds one."""

from __future__ import annotations

import sys
import zipfile
from importlib.machinery import PathFinder
from importlib.metadata import DistributionFinder, entry_points
from pathlib import Path

import pytest

from qwen_embed_plugins import hookspecs
from qwen_embed_plugins.cli.installed import GROUP, may_bring_plugins

OURS = f"[{GROUP}]\nmine = mine\n"
OTHERS = f"[console_scripts]\nother = {GROUP}.cli:main\n"
METADATA = "Name: some\nVersion: 1\n"


def test_the_group_is_the_one_of_the_contract() -> None:
    assert GROUP == hookspecs.PROJECT


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where packages are."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [PathFinder])
    return tmp_path


def install(place: Path, folder: str, text: str | None) -> None:
    (place / folder).mkdir(parents=True)
    (place / folder / "METADATA").write_text(METADATA, "utf-8")
    if text is not None:
        (place / folder / "entry_points.txt").write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("folder", "text", "may"),
    [
        ("some-1.dist-info", OURS, True),
        ("some-1.DIST-INFO", OURS, True),
        ("some.egg-info", OTHERS + OURS, True),
        ("some-1.dist-info", OTHERS, False),
        ("some-1.dist-info", None, False),
        ("some", OURS, False),
    ],
)
def test_a_package_that_names_ours_is_seen(
    place: Path, folder: str, text: str | None, may: bool
) -> None:
    install(place, folder, text)
    assert bool(entry_points(group=GROUP)) == may
    assert may_bring_plugins() == may


def test_a_section_is_found_wherever_it_stands(place: Path) -> None:
    install(place, "some-1.dist-info", f"{OTHERS}\n  [{GROUP}]  \r\nmine = mine")
    assert entry_points(group=GROUP)
    assert may_bring_plugins()


def test_an_egg_is_seen(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    egg = place / "some-1.egg"
    monkeypatch.setattr(sys, "path", [str(egg)])
    install(egg, "EGG-INFO", OURS)
    assert entry_points(group=GROUP)
    assert may_bring_plugins()


def test_an_archive_may_hold_anything(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = place / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("some-1.dist-info/METADATA", METADATA)
        file.writestr("some-1.dist-info/entry_points.txt", OURS)
    monkeypatch.setattr(sys, "path", [str(archive)])
    assert entry_points(group=GROUP)
    assert may_bring_plugins()


def test_a_finder_of_another_kind_may_know_more(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bundle(DistributionFinder):
        def find_distributions(self, context: object = None) -> list[object]:  # type: ignore[override]
            return []

    assert not may_bring_plugins()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Bundle()])
    assert may_bring_plugins()


def test_a_place_that_is_not_there_holds_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(place / "python311.zip")])
    assert not may_bring_plugins()


def test_the_working_folder_is_a_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(place, "some-1.dist-info", OURS)
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [""])
    assert may_bring_plugins()
