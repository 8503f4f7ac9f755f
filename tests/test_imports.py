"""What the packages offer, what importing them costs, and where old places lead."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import pipeline
import shards
from shards.imports import MOVED


@pytest.mark.parametrize("package", [shards, pipeline])
def test_every_public_name_can_be_imported_from_its_package(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert len(names) >= 10
    assert set(names) <= set(dir(package))
    for name in names:
        assert getattr(package, name).__name__ == name


def test_importing_the_packages_loads_nothing_heavy() -> None:
    script = "import shards, pipeline, sys; print(sorted({'torch', 'numpy', 'av', 'transformers'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


@pytest.mark.parametrize(("old", "new"), sorted(MOVED.items()))
def test_an_old_place_names_the_new_one_and_the_new_one_is_there(old: str, new: str) -> None:
    import_module(new)
    with pytest.raises(ModuleNotFoundError, match=rf"^{old} is {new} now: change the import$"):
        import_module(old)


def test_an_old_module_taken_out_of_its_package_names_the_new_one() -> None:
    with pytest.raises(ImportError, match=r"^shards\.schema is shards\.format\.schema now: change the import$"):
        from shards import schema  # noqa: F401


def test_a_name_that_a_package_does_not_offer_is_refused_with_those_that_it_does() -> None:
    with pytest.raises(AttributeError, match=r"pipeline has no 'Loader'; it offers .*ShardLoader"):
        pipeline.Loader  # noqa: B018
