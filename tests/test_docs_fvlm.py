"""docs/fvlm.md: its ablations run, each by the line that stands there, and its sizes are those of the models."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.fvlm_runs import Workshop
from tests.test_model_foveated_built import LANGUAGE, SIZES
from tools.cli import main
from training.metrics import read_metrics

PAGE = Path(__file__).parents[1] / "docs" / "fvlm.md"
STEPS = 5
ABLATIONS = re.search(r"## Ablations\n.*?```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)[1].splitlines()  # type: ignore[index]
SETS = {"video=chats/captions": "video", "text=chats/text1": "text", "video=chats/captions-val": "held_out"}
ROWS = re.findall(r"^\| (\S+) \| ([SB]) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|", PAGE.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop.make(tmp_path_factory.mktemp("ablations"))


def flags(line: str) -> dict[str, str]:
    """What a line changes of the recipe: `SECTION.NAME` -> value."""
    words = shlex.split(line)
    return {word[2:]: words[place + 1] for place, word in enumerate(words) if re.fullmatch(r"--\w+\.[\w.]+", word)}


def test_there_is_an_ablation_of_everything_that_was_asked_for() -> None:
    changed = {name for line in ABLATIONS for name in flags(line)}
    assert {
        "model.deep_query",
        "model.query_dim",
        "model.query_bias",
        "model.query_std",
        "model.visual_scale",
    } <= changed
    assert {"objective.train_dinov2", "objective.train_llm", "objective.mode", "data.mix.text"} <= changed
    assert {"optim.lr", "objective.llm_lr", "objective.dinov2_lr"} <= changed
    assert flags(ABLATIONS[0]) == {}
    assert len(set(ABLATIONS)) == len(ABLATIONS) == 16


@pytest.mark.slow
@pytest.mark.parametrize("line", ABLATIONS, ids=[" ".join(flags(line)) or "base" for line in ABLATIONS])
def test_an_ablation_trains_for_five_steps(line: str, workshop: Workshop, tmp_path: Path) -> None:
    small = {"fvlm_stage1": str(workshop.recipe(1)), **{name: f"{name.partition('=')[0]}=" for name in SETS}}
    out = tmp_path / "run"
    words = []
    for word in shlex.split(line)[1:]:
        if word in SETS:
            words.append(f"{small[word]}{workshop.folder / SETS[word]}")
        else:
            words.append(str(out) if word.startswith("runs/") else small.get(word, word))
    assert main([*words, f"--train.steps={STEPS}"]) == 0
    rows = read_metrics(out / "metrics.jsonl")
    assert len(rows) == STEPS
    assert all(row["num_skipped"] == 0 for row in rows)
    assert "validation_loss" in rows[-1]
    kept = yaml.safe_load((out / "recipe.yaml").read_text())
    for name, value in flags(line).items():
        found = kept
        for part in name.split("."):
            found = found[part]
        expected = yaml.safe_load(value)
        assert found == (float(value) if isinstance(found, float) else expected)


def test_sizes_are_those_of_the_models() -> None:
    assert len(ROWS) == len(SIZES) * len(LANGUAGE)
    for language, vision, *counts in ROWS:
        width, _, of_dino = SIZES[vision]
        sizes, _, of_llm = LANGUAGE[language]
        reading = sizes["hidden_size"]
        between = 2 * 384 + 384 * width + (width + 1) * reading + (reading + 1) * 384
        assert [int(count.replace(",", "")) for count in counts] == [of_llm, of_dino, between]
