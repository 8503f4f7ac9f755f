"""The demo's comparison of raw and coded shards: measured by real runs, judged by what they give."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.dataset import ShardDataset
from tests.marks import reads_with_stock_webdataset
from tools.cli import main
from tools.demo.codecs import CODECS, chance_of, compare
from training.metrics import read_metrics

TINY = ["--train-videos", "24", "--validation-videos", "12", "--teacher-clips", "48", "--teacher-steps", "2"]
TINY += ["--salt-steps", "3", "--train.steps", "4", "--data.global_batch_size", "8"]


@pytest.mark.parametrize(
    ("t", "freedom", "chance"),
    [(4.303, 2, 0.05), (2.776, 4, 0.05), (5.598, 4, 0.005), (2.306, 8, 0.05), (1.86, 8, 0.1)],
)
def test_chances_are_those_of_the_tables_of_students_t(t: float, freedom: int, chance: float) -> None:
    assert chance_of(t, freedom) == pytest.approx(chance, rel=2e-3)
    assert chance_of(-t, freedom) == chance_of(t, freedom)
    assert chance_of(0, freedom) == 1


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.floats(0.01, 100))
def test_the_verdict_does_not_depend_on_the_unit(values: list[float], unit: float) -> None:
    other = [value + 0.5 for value in reversed(values)]
    one, two = compare(values, other), compare([unit * v for v in values], [unit * v for v in other])
    assert one["chance"] == pytest.approx(two["chance"], rel=1e-3, abs=1e-6)


def test_a_difference_is_noise_where_seeds_differ_by_as_much_and_no_noise_where_they_do_not() -> None:
    raw = [0.50, 0.52, 0.48, 0.51, 0.49]
    near = compare(raw, [value + 0.005 for value in raw])
    assert near["within_noise"]
    assert near["difference"] == pytest.approx(0.005)
    assert near["of_pairs"] == pytest.approx(0, abs=1e-9)
    assert near["of_seeds"] == pytest.approx(statistics.stdev(raw))
    far = compare(raw, [value + 0.05 for value in raw])
    assert not far["within_noise"]
    assert far["chance"] < 0.01
    assert compare([1.0, 1.0], [1.0, 1.0])["within_noise"]
    assert not compare([1.0, 1.0], [0.9, 0.9])["within_noise"]


def test_two_groups_of_one_kind_are_called_different_one_time_in_twenty() -> None:
    random = np.random.default_rng(0)
    found = [compare(*random.normal(size=(2, 3)).tolist())["within_noise"] for _ in range(4000)]
    assert found.count(False) / len(found) == pytest.approx(0.05, abs=0.012)


def test_one_seed_has_no_spread_and_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--codecs", "1", "--out", str(tmp_path / "out")]) == 1
    assert "codecs are compared by 1 seed(s); give 2 or more, or 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@reads_with_stock_webdataset
def test_the_demo_trains_both_students_on_raw_and_coded_shards_and_says_what_that_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["demo", "--codecs", "2", "--out", str(out), *TINY]) == 0
    said = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())["codecs"]
    page = (out / "report.html").read_text()
    coded = ShardDataset.open(out / "codecs" / "train")
    assert {name: coded.schema[name].codec for name in CODECS} == CODECS
    assert report["bytes"]["coded"] < 0.7 * report["bytes"]["raw"]
    assert set(report["students"]) == {"st_jepa", "salt"}
    for name, found in report["students"].items():
        for measure, metric in (("loss", "validation_loss"), ("top1", "probe_top1")):
            values = {
                which: [
                    read_metrics(out / "codecs" / f"{name}-{which}-{seed}" / "metrics.jsonl")[-1][metric]
                    for seed in range(2)
                ]
                for which in ("raw", "coded")
            }
            assert found[measure] == compare(**values)
            words = "within noise" if found[measure]["within_noise"] else "more than noise"
            for text in (said, page):
                assert f"{words} ({100 * found[measure]['chance']:.0f} % by chance)" in text
        assert found["loss"]["raw"] != found["loss"]["coded"]
        for which, digest in (("raw", ShardDataset.open(out / "train").digest), ("coded", coded.digest)):
            run = json.loads((out / "codecs" / f"{name}-{which}-0" / "run.json").read_text())
            assert digest in json.dumps(run)
