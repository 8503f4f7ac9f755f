"""What `evaluate vlm --out` writes: scores with the digest of their data, and a page of where the queries look."""

import json
import re
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser

from model.foveated import FoveatedVLM
from shards.dataset import ShardDataset
from tests.browser import VIEWS, look
from tests.fvlm_runs import Workshop
from tools.cli import main
from tools.systems.fvlm import FoveatedRecipe


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop.make(tmp_path_factory.mktemp("fvlm"), num_videos=8, num_texts=4)


@pytest.fixture(scope="module")
def run(workshop: Workshop) -> Path:
    """A run of two steps."""
    out = workshop.folder / "run"
    recipe = workshop.recipe(2, train={"steps": 2})
    assert main(["train", "--recipe", str(recipe), *workshop.sources(), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def scored(workshop: Workshop, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `evaluate vlm --out` has written."""
    out = tmp_path_factory.mktemp("scored") / "results"
    held_out = workshop.folder / "held_out"
    assert main(["evaluate", "vlm", "--run", str(run), "--val", str(held_out), "--out", str(out)]) == 0
    return out


def test_scores_are_written_with_the_digest_of_what_they_were_measured_on(
    workshop: Workshop, run: Path, scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((scored / "vlm.json").read_text())
    assert record["evaluation"] == "vlm"
    assert record["step"] == 2
    assert record["versions"]["reelshard"]
    capsys.readouterr()
    held_out = workshop.folder / "held_out"
    assert main(["evaluate", "vlm", "--run", str(run), "--val", str(held_out), "--json"]) == 0
    result, again = record["results"]["trained"], json.loads(capsys.readouterr().out)["trained"]
    assert result["digests"] == {"val": ShardDataset.open(held_out).digest}
    assert {name: result[name] for name in ("metrics", "rows", "tables")} == {
        name: again[name] for name in ("metrics", "rows", "tables")
    }


def test_the_page_of_scores_shows_where_coarse_and_fine_queries_look_and_what_is_said(scored: Path) -> None:
    page = (scored / "vlm.html").read_text()
    assert page.count("<figcaption>scenes</figcaption>") == 2
    assert page.count("data:image/png;base64,") == 3 * 2  # two samples of the only source: frames, coarse and fine
    assert page.count("<b>said </b>") == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_the_page_of_scores_fits_a_telephone_by_night(scored: Path, browser: Browser) -> None:
    for width, scheme in VIEWS:
        assert not look(browser, scored / "vlm.html", width, scheme).problems


def test_costs_by_source_add_up_to_those_of_all_words(scored: Path) -> None:
    found = json.loads((scored / "vlm.json").read_text())["results"]["trained"]
    rows, metrics = found["tables"]["by_source"], found["metrics"]
    assert [row["source"] for row in rows] == sorted({row["source"] for row in found["rows"]})
    for name in ("ce_coarse_only", "ce_coarse_fine", "ce_autoregressive"):
        total = sum(row[name] * row["num_tokens"] for row in rows)
        assert total / metrics["num_tokens"] == pytest.approx(metrics[name], rel=1e-6)


def test_attention_is_shown_where_the_model_attends(workshop: Workshop, run: Path) -> None:
    from tools.systems.fvlm_looks import look_at
    from tools.trained import open_run

    recipe, made, _ = open_run(run)
    model = made.get_submodule("model")
    assert isinstance(recipe, FoveatedRecipe)
    assert isinstance(model, FoveatedVLM)
    dataset = ShardDataset.open(workshop.folder / "held_out")
    number = next(n for n in range(len(dataset)) if dataset.metadata(n)["num_frames"] == 9)
    seen = look_at(recipe, model, dataset, number)
    pixels = torch.from_numpy(seen.frames).movedim(-1, 1)[None]
    with torch.no_grad():
        videos = model.see(pixels, torch.tensor([9]))
        assert videos is not None
        for name, mode in (("coarse", "coarse_only"), ("fine", "coarse_fine")):
            weights = model.attention(videos.pictures, model.queries(videos, mode)).mean(dim=(0, 2))  # type: ignore[arg-type]
            torch.testing.assert_close(torch.from_numpy(seen.attention[name]).flatten(1), weights[:, 1:])
    assert (seen.attention["coarse"][1:] != seen.attention["fine"][1:]).any()
    messages = dataset.metadata(number)["messages"]
    assert seen.question == messages[0]["content"]
    assert seen.answer == messages[1]["content"]
