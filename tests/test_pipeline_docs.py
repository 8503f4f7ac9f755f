"""The code of docs/loading.md and of the README runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.datasets import POSITIONS, make_dataset
from tests.lengths import make_lengths

ROOT = Path(__file__).parents[1]


def code_of(page: str) -> str:
    """All Python blocks of a page, for clips of this size."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return "\n".join(blocks).replace("num_positions=196", f"num_positions={POSITIONS}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path / "ssv2" / "train", num_samples=24)
    make_lengths(tmp_path / "videos" / "train", num_samples=24)
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.usefixtures("place", "garbage_collected")
def test_the_code_on_loading_runs() -> None:
    names: dict[str, Any] = {}
    exec(code_of("docs/loading.md"), names)
    assert names["state"]["dataset_state"]["global_batch_size"] == 8
    assert names["mix"].state_dict()["epoch"] == 1


@pytest.mark.usefixtures("place", "garbage_collected")
def test_the_code_of_the_readme_runs() -> None:
    names: dict[str, Any] = {}
    exec(code_of("README.md").replace("global_batch_size=256", "global_batch_size=8"), names)
    assert names["state"]["epoch"] == 1
