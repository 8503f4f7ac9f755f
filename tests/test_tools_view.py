"""`reelshard view`, as its server is asked: what it answers, and what it refuses."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import thread_time

import numpy as np
import pytest
from PIL import Image

from shards.builder.failure import FailureRecord, Reason
from shards.dataset import ShardDataset
from shards.format.index import ShardIndex, save_index
from shards.format.layout import tubes_to_clip
from shards.format.manifest import shard_name
from tests.builds import ROOT
from tests.datasets import FRAMES, PATCH, SIZE, make_dataset
from tests.results import HOSTILE
from tests.view_sets import Site, disc, make_frames, picture, site_of
from tools.cli import main
from tools.view.catalogue import Catalogue
from tools.view.masks import MaskView

KEYS = ["<img src=x onerror=alert(1)>", "&amp;'\"", "a-video", "b-video", "b-clip"]
REASONS: list[Reason] = ["decode_error", "decode_error", "missing_file"]
FAILURES = [
    FailureRecord(id=f"f{n}", key=f"f{n}", path=f"{HOSTILE}/{n}.mp4", shard=0, reason=reason, message=f"why {HOSTILE}")
    for n, reason in enumerate(REASONS)
]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_frames(tmp_path_factory.mktemp("sets") / "frames", KEYS, FAILURES)


@pytest.fixture(scope="module")
def site(frames: ShardDataset) -> Iterator[Site]:
    with site_of(frames) as opened:
        yield opened


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return make_dataset(tmp_path_factory.mktemp("sets") / "clips", 20)


def pixels(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_samples_come_page_by_page_and_are_found_by_part_of_a_key_by_number_and_by_label(site: Site) -> None:
    while site.json("/api/labels")["num_read"] < len(KEYS):  # they are read in the background
        pass
    assert site.json("/api/labels")["counts"] == {"0": 3, "1": 2}
    everything = site.json("/api/samples")
    assert (everything["total"], [row["key"] for row in everything["rows"]]) == (5, KEYS)
    assert [row["number"] for row in site.json("/api/samples?offset=2&limit=2")["rows"]] == [2, 3]
    assert site.json("/api/samples?offset=99")["rows"] == []
    for query, numbers in {"key=video": [2, 3], "key=b-": [3, 4], "key=%23" + "1": [1], "label=1": [1, 3]}.items():
        assert [row["number"] for row in site.json(f"/api/samples?{query}")["rows"]] == numbers, query
    assert [row["number"] for row in site.json("/api/samples?key=video&label=1")["rows"]] == [3]
    assert site.json("/api/samples?key=%2399")["total"] == site.json("/api/samples?key=nothing")["total"] == 0
    assert everything["rows"][1]["label"] == "other"


def test_a_sample_is_told_with_its_words_and_its_frames_are_those_that_are_stored(site: Site) -> None:
    told = site.json("/api/sample/3")
    assert told["key"] == "b-video"
    assert told["captions"] == [f"caption 3 {HOSTILE}"]
    assert [one["content"] for one in told["messages"]] == [f"What is it? {HOSTILE}", "A disc."]
    assert told["num_frames"] == 4
    answer = site.ask("/frame/3/2")
    assert (answer.headers["content-type"], answer.body) == ("image/jpeg", picture(3, 2))
    assert pixels(site.ask("/thumbnail/3").body).shape == (32, 32, 3)


def test_masks_and_boxes_are_those_of_the_frame(site: Site) -> None:
    boxes = site.json("/api/objects/1")
    assert [len(objects) for objects in boxes] == [1, 1, 1, 1]
    x0, y0, x1, y1 = boxes[2][0]["box"]
    rows, columns = np.nonzero(disc(1, 2))
    assert [x0, y0, x1, y1] == [columns.min() / 32, rows.min() / 32, (columns.max() + 1) / 32, (rows.max() + 1) / 32]
    painted = pixels(site.ask("/masks/1/2").body)
    np.testing.assert_array_equal(painted[..., 3] > 0, disc(1, 2))


def test_frames_of_a_clip_are_its_pixels_and_the_mask_is_the_one_that_training_draws(clips: ShardDataset) -> None:
    from pipeline.order.draws import TubeMask

    side = SIZE // PATCH
    mask = MaskView(draw=TubeMask(num_positions=side**2), seed=5, grid=(side, side), num_times=2)
    with site_of(clips, mask) as site:
        clip = tubes_to_clip(np.asarray(clips.read(7, "clip")), side)
        for place in range(FRAMES):
            np.testing.assert_array_equal(pixels(site.ask(f"/frame/7/{place}").body), clip[place])
        drawn = site.json("/api/mask/7?epoch=3")
        hidden = TubeMask(num_positions=side**2).draw(5, 3, np.array([7]))["masked"][0]
        assert drawn["hidden"] == ["".join("01"[place in hidden] for place in range(side**2))] * 2
        assert site.json("/api/mask/7?epoch=4")["hidden"] != drawn["hidden"]


def test_clips_that_a_codec_stores_are_seen_as_they_are_read(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set", 6, codec={"clip": "yuv420", "target": "int8"})
    clip = tubes_to_clip(np.asarray(dataset.read(1, "clip")), SIZE // PATCH)
    with site_of(dataset) as site:
        np.testing.assert_array_equal(pixels(site.ask("/frame/1/2").body), clip[2])
        assert "stored as yuv420" in site.json("/api/sample/1")["fields"][0]["kind"]


def test_failures_are_listed_by_reason_and_page(site: Site) -> None:
    found = site.json("/api/failures")
    assert (found["total"], found["reasons"]) == (3, {"decode_error": 2, "missing_file": 1})
    assert found["rows"][0]["message"] == f"why {HOSTILE}"
    assert [one["id"] for one in site.json("/api/failures?reason=decode_error&offset=1")["rows"]] == ["f1"]


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/static/../server.py",
        "/view.js/../../server.py",
        "//etc/passwd",
        "/frame/..%2f..%2fdataset.json/0",
        "/dataset.json",
        "/train-00000-of-00001.tar",
        "/frame/-1/0",
        "/frame/0/99",
        "/frame/5/0",
        "/masks/0/4",
        "/thumbnail/99999999999999999999999999",
        "/api/mask/0",
        "/%00",
    ],
)
def test_nothing_is_read_by_a_path_and_what_is_not_there_is_said(site: Site, path: str) -> None:
    answer = site.ask(path)
    assert answer.status == 404
    assert list(answer.json()) == ["error"]
    assert b"root:" not in answer.body


@pytest.mark.parametrize(
    "query", ["offset=-1", "offset=x", "limit=1e9", "label=..", f"offset=9{'9' * 20}", "label=%D9%A3", "label=%00"]
)
def test_a_query_that_is_none_is_refused_in_a_line(site: Site, query: str) -> None:
    answer = site.ask(f"/api/samples?{query}")
    assert answer.status == 400
    assert "is a whole number from 0 on" in answer.json()["error"]


def test_a_damaged_sample_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    dataset = make_frames(tmp_path / "set", ["a", "b"])
    offset = int(dataset.extents(0, "json").offsets[0])
    with dataset.tar_path(0).open("r+b") as tar:
        tar.seek(offset)
        tar.write(b"\xff\xff")
    with site_of(ShardDataset.open(tmp_path / "set")) as site:
        answer = site.ask("/api/sample/0")
        assert answer.status == 500
        assert "checksum" in answer.json()["error"]
        assert site.json("/api/sample/1")["key"] == "b"
        assert site.json("/api/samples")["total"] == 2


def test_many_ask_at_once_and_get_what_one_gets(site: Site) -> None:
    alone = {path: site.ask(path).body for number in range(5) for path in (f"/frame/{number}/1", f"/masks/{number}/3")}
    wrong: list[str] = []

    def ask(path: str, expected: bytes) -> None:
        if site.ask(path).body != expected:
            wrong.append(path)

    threads = [threading.Thread(target=ask, args=each) for each in alone.items() for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# argv: the command line. Its server takes its time to end, and says when it has.
SLOW_TO_END = """
import asyncio, sys, uvicorn
from tools.__main__ import main
shutdown = uvicorn.Server.shutdown
async def slowly(server, sockets):
    await asyncio.sleep(0.5)
    await shutdown(server, sockets)
    sys.stderr.write("ended\\n")
uvicorn.Server.shutdown = slowly
sys.exit(main())
"""


def test_the_command_says_where_it_is_answers_and_ends_with_ctrl_c(clips: ShardDataset) -> None:
    command = [sys.executable, "-c", SLOW_TO_END, "view", str(clips.directory), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r" at http://127\.0\.0\.1:(\d+)/\?token=(\S+)$", line)
        assert found
        assert Site(int(found[1]), found[2]).json("/api/set")["num_samples"] == 20
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "ended\nreelshard: interrupted\n")


def test_what_does_not_fit_is_one_clear_line(
    clips: ShardDataset, frames: ShardDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with site_of(clips) as site:
        for arguments, said in {
            (str(tmp_path),): "dataset.json",
            (str(clips.directory), "--port", "99999"): "--port is 99999",
            (str(clips.directory), "--port", str(site.port)): f"port {site.port} cannot be had",
            (str(clips.directory), "--data.seed", "3"): "--recipe NAME",
            (str(frames.directory), "--recipe", "demo"): "no field",
        }.items():
            assert main(["view", *arguments]) == 1
            error = capsys.readouterr().err
            assert said in error
            assert error.count("\n") == 1


@pytest.mark.slow
def test_a_million_samples_are_searched_and_paged_at_once(tmp_path: Path) -> None:
    """One shard under many names: as many samples as a large set has, and no more bytes."""
    small, count = make_dataset(tmp_path / "small", 500, 500, size=PATCH), 2000
    index, out = small.index(0), tmp_path / "large"
    out.mkdir()
    infos = [replace(index.info, name=shard_name("train", shard, count)) for shard in range(count)]
    for info in infos:
        os.link(small.tar_path(0), out / info.name)
        save_index(ShardIndex(info, index.schema, "\n".join(index.keys).encode(), index.extents), out / info.name)
    replace(small.manifest, shards=tuple(infos)).write(out)
    dataset = ShardDataset.open(out)
    assert len(dataset) == 1_000_000
    catalogue = Catalogue(dataset)
    try:
        assert catalogue.page("", None, 999_990, 24) == (1_000_000, list(range(999_990, 1_000_000)))
        assert catalogue.page("000499", None, 1_999, 24) == (2000, [999_999])  # reads all sidecars, once
        began = thread_time()
        assert catalogue.page("00012", None, 0, 2) == (22_000, [12, 120])
        assert thread_time() - began < 1  # of a processor; a machine that is busy takes longer
    finally:
        catalogue.close()
