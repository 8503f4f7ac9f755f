"""The linear probe as an evaluator: what it takes, what it gives, on one rank and on two."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evaluation.features import extract_features
from evaluation.probe import ProbeConfig, probe, wilson_interval
from evaluation.result import Evaluator, Result
from model.parts import weights_digest
from pipeline.world import World
from shards.dataset import ShardDataset
from tests.datasets import make_dataset
from tests.linear_probes import linear_probe
from tests.probe_ranks import FAST, encoder, run, split

ALONE = World()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "train", num_samples=19)


@pytest.fixture(scope="module")
def result(dataset: ShardDataset) -> Result:
    return run(dataset, ALONE)


def test_the_probe_is_an_evaluator_and_finds_what_a_linear_probe_of_the_features_finds(
    dataset: ShardDataset, result: Result
) -> None:
    evaluator: Evaluator[ProbeConfig] = probe
    assert evaluator is probe
    train, val = (extract_features(encoder(), split(dataset, ALONE, size).batches) for size in (4, 2))
    found = linear_probe(train, val, 3, FAST)
    assert result.metrics["top1"] == found.top1
    assert (result.metrics["top1_low"], result.metrics["top1_high"]) == wilson_interval(found.top1, 19)
    assert result.metrics["train_top1"] == found.train_top1
    assert result.metrics["chance"] == pytest.approx(7 / 19)


def test_its_rows_are_the_held_out_samples_and_give_the_metrics(dataset: ShardDataset, result: Result) -> None:
    assert [row["key"] for row in result.rows] == [dataset.key(number) for number in range(19)]
    right = [[guess == row["label"] for guess in row["predicted"]] for row in result.rows]
    assert sum(map(sum, right)) / (19 * len(FAST.seeds)) == pytest.approx(result.metrics["top1"])


def test_it_says_how_and_on_what_it_was_measured(dataset: ShardDataset, result: Result) -> None:
    assert result.digests == {
        "train": dataset.digest,
        "val": dataset.digest,
        "model": weights_digest(encoder().state_dict()),
    }
    assert result.protocol.items() >= dataclasses.asdict(FAST).items()
    assert result.protocol["precision"] == "float32"
    assert json.loads(json.dumps(result.to_json()))["protocol"]["num_val"] == 19


def test_other_weights_have_another_digest() -> None:
    first, second = encoder(), encoder()
    with torch.no_grad():
        second.norm.weight[0] += 1
    assert weights_digest(first.state_dict()) != weights_digest(second.state_dict())


def test_the_model_is_left_in_the_modes_that_it_had(dataset: ShardDataset) -> None:
    model = encoder().train()
    model.norm.eval()
    probe(model, {"train": split(dataset, ALONE), "val": split(dataset, ALONE)}, FAST, ALONE)
    assert (model.training, model.norm.training, model.patch_embed.training) == (True, False, True)


def test_the_callers_autocast_is_used_for_the_encoder_and_recorded(dataset: ShardDataset) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = run(dataset, ALONE)
    assert found.protocol["precision"] == "bfloat16"
    assert 0 <= found.metrics["top1"] <= 1


def test_data_that_does_not_belong_together_is_refused(dataset: ShardDataset) -> None:
    with pytest.raises(ValueError, match="needs the data train and val, got val"):
        probe(encoder(), {"val": split(dataset, ALONE)}, FAST, ALONE)
    other = dataclasses.replace(split(dataset, ALONE), label_names=("cat", "dog"))
    with pytest.raises(ValueError, match="the label names of train and val differ"):
        probe(encoder(), {"train": split(dataset, ALONE), "val": other}, FAST, ALONE)


@pytest.mark.slow
def test_two_ranks_share_the_work_and_both_get_the_result_of_one(
    dataset: ShardDataset, result: Result, tmp_path: Path
) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launcher, "-m", "tests.probe_ranks", str(dataset.directory), str(tmp_path)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second
    alone = json.loads(json.dumps(result.to_json()))
    assert first["digests"] == alone["digests"]
    assert first["protocol"] == alone["protocol"]
    assert [row["key"] for row in first["rows"]] == [row["key"] for row in alone["rows"]]
    assert first["metrics"]["top1"] == pytest.approx(alone["metrics"]["top1"], abs=0.06)  # rounding may turn a guess
