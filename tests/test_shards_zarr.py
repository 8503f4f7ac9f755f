"""A Zarr cache holds the same targets bit for bit, out and in."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import LoaderConfig
from pipeline.loader import ShardLoader
from shards.dataset import ShardDataset
from shards.exchange.zarr import export_targets, import_targets
from shards.format.errors import MissingDataError, ShardError
from shards.format.layout import tubes_to_target
from shards.format.manifest import Manifest, shard_name
from shards.format.schema import Schema
from shards.verify import verify_dataset
from shards.writer import ShardWriter
from tests.datasets import DIM, TIMES, make_dataset, tubes_sample, tubes_schema
from tools.cli import main

zarr = pytest.importorskip("zarr")


def clips_only(directory: Path, dataset: ShardDataset) -> ShardDataset:
    """The same samples without targets, in other shards."""
    directory.mkdir()
    schema = Schema((tubes_schema()["clip"], tubes_schema()["json"]))
    infos = []
    for shard, numbers in enumerate((range(12), range(12, 20))):
        with ShardWriter(directory / shard_name("train", shard, 2), schema) as writer:
            for number in numbers:
                sample = tubes_sample(number)
                writer.write(dataset.key(number), {"clip": sample["clip"], "json": sample["json"]})
        infos.append(writer.info)
    Manifest(split="train", schema=schema, shards=tuple(infos)).write(directory)
    return ShardDataset.open(directory)


def write_cache(
    folder: Path,
    targets: NDArray[np.float16],
    lines: list[dict[str, Any]],
    *,
    store: str = "targets.zarr/targets",
    **options: Any,
) -> Path:
    """A cache as others make it; `targets` is f16 `[num_samples, N, D]`."""
    folder.mkdir()
    array = zarr.create_array(str(folder / store), shape=targets.shape, dtype="float16", **options)
    array[:] = targets
    (folder / "meta.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def tokens(number: int) -> NDArray[np.float16]:
    """The targets of a sample of `make_dataset` in the order i = t * S + s, f16 `[N, D]`."""
    return tubes_to_target(np.asarray(tubes_sample(number)["target"]))


def assert_targets_are_those_of(imported: ShardDataset) -> None:
    for number in range(len(imported)):
        assert np.asarray(imported[number]["target"]).tobytes() == np.asarray(tubes_sample(number)["target"]).tobytes()
    assert verify_dataset(imported.directory).problems == ()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_targets_go_out_and_come_back_bit_for_bit(tmp_path: Path, zarr_format: int) -> None:
    dataset = make_dataset(tmp_path / "set")
    more = ("--zarr-format", str(zarr_format))
    assert main(["zarr", "export", str(tmp_path / "set"), str(tmp_path / "cache"), *more]) == 0
    array = zarr.open_array(str(tmp_path / "cache" / "targets.zarr" / "targets"), mode="r")
    assert (array.shape, array.dtype, array.chunks) == ((20, 32, 6), np.float16, (1, 32, 6))
    assert array.compressors
    assert array.metadata.zarr_format == zarr_format
    tubes = np.asarray(dataset[7]["target"])
    assert np.array_equal(array[7], np.concatenate([tubes[:, time] for time in range(TIMES)]))  # i = t * S + s
    lines = [json.loads(line) for line in (tmp_path / "cache" / "meta.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [dataset.key(number) for number in range(20)]
    assert [line["index"] for line in lines] == list(range(20))
    assert lines[3]["video_id"] == dataset.metadata(3)["video_id"]

    clips_only(tmp_path / "clips", dataset)
    assert main(["zarr", "import", str(tmp_path / "clips"), str(tmp_path / "cache")]) == 0
    both = ShardDataset.open(tmp_path / "clips")
    assert_targets_are_those_of(both)
    for number in range(20):
        assert np.asarray(both[number]["clip"]).tobytes() == np.asarray(dataset[number]["clip"]).tobytes()
    for batch in ShardLoader(both, LoaderConfig(global_batch_size=5)):
        for row, number in enumerate(batch["index"].tolist()):
            assert np.array_equal(batch["target"][row].numpy(), np.asarray(dataset[number]["target"]))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_cache_made_elsewhere_is_read_by_index_and_video_id(tmp_path: Path, zarr_format: int) -> None:
    order = np.random.default_rng(0).permutation(20).tolist()
    targets = np.stack([tokens(number) for number in order])
    lines = [{"index": row, "video_id": f"video{number:06d}"} for row, number in enumerate(order)]
    lines.reverse()  # an index stands for itself, wherever its line is
    cache = write_cache(tmp_path / "cache", targets, lines, chunks=(8, 16, 6), zarr_format=zarr_format)
    clips = clips_only(tmp_path / "clips", make_dataset(tmp_path / "set"))
    import_targets(cache, clips)
    assert_targets_are_those_of(ShardDataset.open(tmp_path / "clips"))


def test_a_cache_of_the_first_layout_is_still_read(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set")
    targets = np.stack([tokens(number) for number in range(20)])
    lines = [dataset.metadata(number) | {"key": dataset.key(number)} for number in range(20)]
    cache = write_cache(tmp_path / "cache", targets, lines, store="targets.zarr", compressors=None)
    import_targets(cache, clips_only(tmp_path / "clips", dataset))
    assert_targets_are_those_of(ShardDataset.open(tmp_path / "clips"))


def with_teacher(dataset: ShardDataset, projection: bytes) -> ShardDataset:
    """The same data set with a teacher and a view on record."""
    header = len(projection) - 4 * DIM * DIM
    about = {"shape": [DIM, DIM], "sha256": hashlib.sha256(projection[header:]).hexdigest()}
    provenance = {"teacher": {"id": "a teacher", "projection": about}, "view": {"hash": "a" * 64}}
    replace(dataset.manifest, provenance=provenance).write(dataset.directory)
    (dataset.directory / "projection.npy").write_bytes(projection)
    return ShardDataset.open(dataset.directory)


def test_what_is_known_of_the_teacher_survives_the_way_out_and_in(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(DIM * DIM, dtype=np.float32).reshape(DIM, DIM))
    dataset = with_teacher(make_dataset(tmp_path / "set"), buffer.getvalue())
    assert verify_dataset(dataset.directory).problems == ()
    export_targets(dataset, tmp_path / "cache")
    clips = clips_only(tmp_path / "clips", dataset)
    import_targets(tmp_path / "cache", clips)
    imported = ShardDataset.open(tmp_path / "clips")
    assert imported.manifest.about("zarr")["teacher"] == dataset.manifest.provenance["teacher"]
    assert imported.manifest.about("zarr")["view_hash"] == "a" * 64
    assert (tmp_path / "clips" / "projection.zarr.npy").read_bytes() == buffer.getvalue()
    export_targets(imported, tmp_path / "again")
    attributes = [
        dict(zarr.open_array(str(tmp_path / name / "targets.zarr" / "targets"), mode="r").attrs)["reelshard"]["teacher"]
        for name in ("cache", "again")
    ]
    assert attributes[0] == attributes[1] == dataset.manifest.provenance["teacher"]
    (tmp_path / "clips" / "projection.zarr.npy").write_bytes(buffer.getvalue()[:-4] + b"abcd")
    (problem,) = verify_dataset(tmp_path / "clips").problems
    assert "projection.zarr.npy is not the projection of the manifest" in problem


def test_a_cache_of_another_view_is_refused_and_both_are_named(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set")
    targets = np.stack([tokens(number) for number in range(20)])
    lines = [{"key": dataset.key(number), "view_hash": "b" * 64} for number in range(20)]
    cache = write_cache(tmp_path / "cache", targets, lines)
    clips = clips_only(tmp_path / "clips", dataset)
    replace(clips.manifest, provenance={"view": {"hash": "a" * 64}}).write(clips.directory)
    with pytest.raises(ShardError, match=r"aaaaaaaaaaaa.*bbbbbbbbbbbb"):
        import_targets(cache, ShardDataset.open(clips.directory))
    assert not list(clips.directory.glob("train.zarr*"))


def test_that_views_could_not_be_compared_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = make_dataset(tmp_path / "set")
    export_targets(dataset, tmp_path / "cache")
    clips_only(tmp_path / "clips", dataset)
    assert main(["zarr", "import", str(tmp_path / "clips"), str(tmp_path / "cache")]) == 0
    assert "not compared" in capsys.readouterr().out


@pytest.mark.parametrize("num_tokens", [31, 16, 64, 8])
def test_a_cache_of_another_geometry_is_one_clear_line(
    tmp_path: Path, num_tokens: int, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = np.ones((20, num_tokens, DIM), np.float16)
    cache = write_cache(tmp_path / "cache", targets, [{"key": f"{number:06d}"} for number in range(20)])
    clips_only(tmp_path / "clips", make_dataset(tmp_path / "set"))
    assert main(["zarr", "import", str(tmp_path / "clips"), str(cache)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]  # after the progress
    assert f"{num_tokens} tokens a sample" in line
    assert "2 times x 16 positions = 32" in line
    assert not list((tmp_path / "clips").glob("train.zarr*"))


@pytest.mark.parametrize(
    "lines",
    [
        ["{"],
        ["[1]"],
        ["7"],
        ["{}"],
        ['{"key": {"a": 1}}'],
        ['{"key": true}'],
        ['{"key": "000000", "index": -1}'],
        ['{"key": "000000", "index": 1000000000000000000000000000000}'],
        ['{"key": "000000", "index": "0"}'],
        ['{"key": "000000", "index": 0}', '{"key": "000001", "index": 0}'],
        ['{"key": "000000", "index": 0}', '{"key": "000000", "index": 1}'],
        ['{"key": "000000", "index": 0}', '{"key": "000001"}'],
        ['{"key": "000000"}'],
        ["[" * 100_000],
        ['{"key": NaN}'],
        ["\udcff"],
    ],
)
def test_lines_that_do_not_describe_the_array_are_one_clear_error(tmp_path: Path, lines: list[str]) -> None:
    targets = np.ones((20, 32, DIM), np.float16)
    cache = write_cache(tmp_path / "cache", targets, [])
    (cache / "meta.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    clips = clips_only(tmp_path / "clips", make_dataset(tmp_path / "set"))
    with pytest.raises(ShardError, match=r"meta\.jsonl"):
        import_targets(cache, clips)
    assert sorted(path.suffix for path in clips.directory.iterdir()) == [".idx", ".idx", ".json", ".tar", ".tar"]


@pytest.mark.parametrize(
    "metadata", [b"", b"{", b"[]", b'{"zarr_format": 3}', b'{"zarr_format": 99, "node_type": "array"}', b"[" * 100_000]
)
def test_an_array_that_is_none_is_one_clear_error(tmp_path: Path, metadata: bytes) -> None:
    cache = write_cache(tmp_path / "cache", np.ones((20, 32, DIM), np.float16), [])
    (cache / "targets.zarr" / "targets" / "zarr.json").write_bytes(metadata)
    clips = clips_only(tmp_path / "clips", make_dataset(tmp_path / "set"))
    with pytest.raises(ShardError, match="not a readable Zarr array"):
        import_targets(cache, clips)


def test_a_row_that_was_never_written_damaged_or_not_finite_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    lines = [{"key": f"{number:06d}"} for number in range(20)]
    targets = np.stack([tokens(number) for number in range(20)])
    clips = clips_only(tmp_path / "clips", make_dataset(tmp_path / "set"))
    chunk = "c/15/0/0"
    missing = write_cache(tmp_path / "missing", targets, lines, chunks=(1, 32, DIM))
    (missing / "targets.zarr" / "targets" / chunk).unlink()
    damaged = write_cache(tmp_path / "damaged", targets, lines, chunks=(1, 32, DIM))
    (damaged / "targets.zarr" / "targets" / chunk).write_bytes(b"no compressed chunk")
    infinite = targets.copy()
    infinite[15, 3, 2] = np.inf
    infinite_cache = write_cache(tmp_path / "infinite", infinite, lines)
    for cache, said in ((missing, "never written"), (damaged, "cannot be read"), (infinite_cache, "not finite")):
        with pytest.raises(ShardError, match=f"row 15 .*{said}"):
            import_targets(cache, clips)
        assert not list(clips.directory.glob("train.*"))


def test_a_cache_that_lacks_a_sample_is_refused_and_the_set_stays_as_it_was(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set", num_samples=10)
    export_targets(dataset, tmp_path / "cache")
    clips = clips_only(tmp_path / "clips", make_dataset(tmp_path / "all"))
    with pytest.raises(MissingDataError, match=r"no targets for 10 samples \('000010', "):
        import_targets(tmp_path / "cache", clips)
    assert ShardDataset.open(tmp_path / "clips").digest == clips.digest


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set")
    export_targets(dataset, tmp_path / "cache")
    with pytest.raises(ShardError, match="there already"):
        export_targets(dataset, tmp_path / "cache")
    with pytest.raises(ShardError, match="has a target already"):
        import_targets(tmp_path / "cache", dataset)
    with pytest.raises(MissingDataError, match=r"no targets\.zarr"):
        import_targets(tmp_path, clips_only(tmp_path / "clips", dataset))
    with pytest.raises(ValueError, match="targets are"):
        export_targets(dataset, tmp_path / "other", field="clip")
    with pytest.raises(ValueError, match=r"group's name '\.\./esc' is not allowed"):
        import_targets(tmp_path / "cache", dataset, group="../esc")
    with pytest.raises(ShardError, match="s3://bucket/cache is no local folder"):
        export_targets(dataset, Path("s3://bucket/cache"))
    assert not list(tmp_path.glob("*.tmp"))
