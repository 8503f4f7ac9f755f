"""Every kind of bad input ends as one line with its reason, and never as a lost run."""

import json
import os
import select
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.builder import BuildConfig, Item, load_folder, load_ssv2, open_source
from shards.builder.decode.isolate import DecodePool, DecoderProcess
from shards.builder.plan import make_plan
from shards.builder.readiness import check_readiness, look_ahead
from shards.format.errors import ShardError
from tests.builds import CONFIG, VIEW, build, contents, failures, listed, write_videos
from tests.videos import moving_square, write_video

LIMITED = replace(CONFIG, time_limit_seconds=60.0)


@pytest.fixture(scope="module")
def bad_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SSv2 annotations and videos with one of each thing that can be wrong."""
    folder = tmp_path_factory.mktemp("bad")
    videos = folder / "videos"
    for name in ("good", "twice", "cut", "middle", "odd"):
        write_video(videos / f"{name}.webm", moving_square(num_frames=24))
    write_video(videos / "short.webm", moving_square(num_frames=3))
    write_video(videos / "unlisted.webm")
    black = np.broadcast_to(np.uint8(0), (2, 4160, 8192, 3))
    write_video(videos / "huge.mp4", black, codec="libx264").rename(videos / "huge.webm")
    (videos / "empty.webm").touch()
    (videos / "text.webm").write_text("no video\n" * 50)
    whole = (videos / "cut.webm").read_bytes()
    (videos / "cut.webm").write_bytes(whole[: len(whole) // 2])
    damaged = write_video(videos / "middle.mp4", moving_square(num_frames=24), codec="libx264")
    data = bytearray(damaged.read_bytes())
    start = (data.index(b"mdat") + data.index(b"moov")) // 2
    end = data.index(b"moov") - 4
    data[start:end] = b"\xff" * (end - start)
    (videos / "middle.webm").write_bytes(data)
    damaged.unlink()
    os.mkfifo(videos / "hangs.webm")
    names = ["good", "twice", "twice", "cut", "middle", "short", "huge", "empty", "text", "hangs", "missing"]
    entries = [{"id": name, "label": "x", "template": "Moving [something]"} for name in names]
    entries.append({"id": "odd", "label": "x", "template": "Doing [something]"})
    (folder / "labels.json").write_text(json.dumps({"Moving something": "0"}))
    (folder / "train.json").write_text(json.dumps(entries))
    return folder


@pytest.mark.slow
def test_each_bad_input_is_recorded_with_its_reason(bad_inputs: Path, tmp_path: Path) -> None:
    source = load_ssv2(bad_inputs / "videos", bad_inputs, "train")
    view = replace(VIEW, short_video="refuse")
    summary = build(source, tmp_path, view=view, config=replace(LIMITED, time_limit_seconds=3.0))
    assert failures(tmp_path) == {
        "twice": "duplicate_id",
        "cut": "truncated",
        "middle": "decode_error",
        "short": "too_few_frames",
        "huge": "bad_dimensions",
        "empty": "empty_file",
        "text": "open_error",
        "hangs": "timeout",
        "missing": "missing_file",
        "odd": "unknown_template",
    }
    assert (summary.num_planned, summary.num_samples, summary.num_failed) == (12, 2, 10)
    assert summary.failures == dict.fromkeys(sorted(failures(tmp_path).values()), 1)


def test_decoders_in_processes_and_in_threads_give_the_same_bytes(tmp_path: Path) -> None:
    source = load_folder(write_videos(tmp_path / "videos", 5))
    build(source, tmp_path / "threads", config=CONFIG)
    build(source, tmp_path / "processes", config=LIMITED)
    assert contents(tmp_path / "threads") == contents(tmp_path / "processes")


def decoder_process() -> int:
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    (pid,) = [pid for pid in children if "shards.builder.decode.isolate" in Path(f"/proc/{pid}/cmdline").read_text()]
    return pid


def kill_decoder() -> None:
    """Kill the decoder process and wait until it has let go of its files."""
    pid = decoder_process()
    process = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([process], [], [])
    os.close(process)


@pytest.mark.parametrize("num_kills", [1, 2])
def test_a_decoder_that_dies_is_tried_once_more_then_its_video_fails(tmp_path: Path, num_kills: int) -> None:
    path, video = tmp_path / "a.webm", write_video(tmp_path / "b.webm")
    os.mkfifo(path)
    plan = make_plan(listed(tmp_path, "a.webm", "b.webm"), VIEW, LIMITED, split="train")
    first, second = sorted(plan.items, key=lambda item: item.id)
    decoders = DecodePool(plan, 1)
    try:
        outcome = decoders.submit(0, first)
        for number in range(num_kills):
            with path.open("wb"):  # waits until a decoder has opened it
                if number == 0 and num_kills == 1:
                    shutil.copy(video, tmp_path / "copy")
                    (tmp_path / "copy").replace(path)
                kill_decoder()
        failure = outcome.result(60).failure
        if num_kills == 1:
            assert failure is None
        else:
            assert failure is not None
            assert failure.reason == "decode_error"
            assert "SIGKILL, 2 times" in failure.message
        assert decoders.submit(0, second).result(60).failure is None
    finally:
        decoders.shutdown()


def test_stopping_does_not_wait_for_a_decoder_that_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.webm")
    plan = make_plan(listed(tmp_path, "a.webm"), VIEW, LIMITED, split="train")
    decoders = DecodePool(plan, 1)
    outcome = decoders.submit(0, plan.items[0])
    with ThreadPoolExecutor(1) as pool, (tmp_path / "a.webm").open("wb"):
        pool.submit(decoders.shutdown).result(30)
    with pytest.raises(ShardError, match="was stopped"):
        outcome.result(30)


def test_a_decoder_that_starts_while_the_pool_is_stopped_takes_no_item(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.webm")
    plan = make_plan(listed(tmp_path, "a.webm"), VIEW, LIMITED, split="train")
    answers = iter([False])  # not stopped yet when the decoder is started, stopped from then on
    decoder = DecoderProcess(plan)
    try:
        with ThreadPoolExecutor(1) as pool:
            outcome = pool.submit(decoder.decode, 0, plan.items[0], lambda: next(answers, True))
            with pytest.raises(ShardError, match="was stopped"):
                outcome.result(30)
    finally:
        decoder.close()


def test_failures_are_tried_again_and_only_shards_that_change_are_built(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", 8)
    broken = ["v2", "v5"]
    whole = {name: (videos / f"{name}.webm").read_bytes() for name in broken}
    for name in broken:
        (videos / f"{name}.webm").write_text("not yet a video")
    out = tmp_path / "out"
    source = load_folder(videos)
    first = build(source, out)
    assert set(failures(out)) == {"v2", "v5", "empty"}
    again = build(source, out, retry_failures=True)
    assert again.num_resumed == 9
    assert again.digest == first.digest
    (videos / "v2.webm").write_bytes(whole["v2"])
    assert build(source, out).num_failed == 3  # a plain run does not look at failed videos again
    assert build(source, out, retry_failures=True).num_resumed == 6
    (videos / "v5.webm").write_bytes(whole["v5"])
    build(source, out, retry_failures=True)
    assert failures(out) == {"empty": "empty_file"}
    build(source, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_preflight_counts_what_is_absent_and_decodes_a_sample(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", 3)
    (videos / "text.webm").write_text("no video\n")
    items = (*load_folder(videos).items, Item(id="x", path="x.webm"))
    source = replace(load_folder(videos), items=items)
    plan = make_plan(source, VIEW, replace(CONFIG, max_failures=0.5), split="train")
    found = look_ahead(plan, tmp_path / "not" / "yet")
    assert (found.num_items, found.num_sampled) == (6, 4)
    assert found.absent == {"empty_file": 1, "missing_file": 1}
    assert found.broken == {"open_error": 1}
    assert found.bytes_needed > 6 * 4 * 32 * 32 * 3
    assert found.bytes_free > 0
    check_readiness(found, plan)
    strict = make_plan(source, VIEW, replace(CONFIG, max_failures=1), split="train")
    with pytest.raises(ShardError, match=r"not fit to build: 6 videos: empty_file 1, missing_file 1; .* 1 may fail"):
        check_readiness(found, strict)


def test_preflight_stops_where_the_sample_shows_that_too_many_are_broken(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.webm").write_text("no video\n")
    plan = make_plan(open_source(tmp_path, None, "train"), VIEW, BuildConfig(max_failures=0.1), split="train")
    with pytest.raises(ShardError, match="open_error 12"):
        check_readiness(look_ahead(plan, tmp_path), plan)
