"""Labels come from JSON that somebody else may have written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from pipeline.stream import StreamLoader
from shards.format.errors import DamagedShardError, ShardError
from tests.datasets import make_dataset

LABELS = [
    b'{"label": 9223372036854775808}',
    b'{"label": -9223372036854775809}',
    b'{"label": 1' + b"0" * 5000 + b"}",
    b'{"label": 1e400}',
    b'{"label": NaN}',
    b'{"label": 1.5}',
    b'{"label": "seven"}',
    b'{"label": [1]}',
    b'{"label": true}',
    b"[1]",
    b"[" * 100_000,
    b"\xff",
]


@pytest.mark.parametrize("record", LABELS, ids=[str(record[:40]) for record in LABELS])
def test_a_label_that_is_no_number_of_64_bits_is_damage_like_any_other(tmp_path: Path, record: bytes) -> None:
    dataset = make_dataset(tmp_path, num_samples=6, records={3: record})
    config = LoaderConfig(global_batch_size=6, fields=("label",))
    with pytest.raises(DamagedShardError, match=r"key 000003, field json, offset .* no readable label") as caught:
        list(ShardLoader(dataset, config))
    assert len(str(caught.value)) < 300
    (batch,) = ShardLoader(dataset, replace(config, on_error="quarantine"))
    assert batch["index"][~batch["valid"]].tolist() == [3]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # stock webdataset leaves files open
@pytest.mark.parametrize("record", LABELS, ids=[str(record[:40]) for record in LABELS])
def test_the_general_path_refuses_the_same_labels(tmp_path: Path, record: bytes) -> None:
    dataset = make_dataset(tmp_path, num_samples=6, records={3: record})
    with pytest.raises(ShardError, match=r"000003.*no readable label"):
        list(StreamLoader([str(dataset.tar_path(0))], 6, fields=("label",)))


def test_a_label_may_be_any_number_of_64_bits_or_none(tmp_path: Path) -> None:
    members = (b'{"label": 9223372036854775807}', b'{"label": -9223372036854775808}', b'{"label": null}', b"{}")
    dataset = make_dataset(tmp_path, num_samples=4, records=dict(enumerate(members)))
    (batch,) = ShardLoader(dataset, LoaderConfig(global_batch_size=4, fields=("label",), shuffle=False))
    assert batch["label"].tolist() == [2**63 - 1, -(2**63), -1, -1]
