"""Chats in tars of video2dataset, here or behind a URL."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from webdataset import tariterators

from shards import MissingDataError, ShardError
from shards.builder.sources.chat_tars import load_chat_tars
from tests.builds import failures
from tests.chat_files import build_from, colour_of, picture, said, video_bytes
from tests.chats import write_tokenizer
from tests.object_store import http_files
from tools.chat_tars import expand, open_tars


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "bytes")


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars in the layout of video2dataset, members in its order; keys of different widths."""
    folder = tmp_path_factory.mktemp("tars")
    video = video_bytes(folder / "made", 4)
    about = {"url": "https://example.org/v", "status": "success", "error_message": None}

    def sample(key: str, text: str, media: bytes = video, suffix: str = "mp4", **more: Any) -> list[tuple[str, bytes]]:
        record = json.dumps(about | {"key": key} | more).encode()
        return [(f"{key}.json", record), (f"{key}.{suffix}", media), (f"{key}.txt", text.encode())]

    first = sample("000000014", "a cyclist on a bridge", caption="another caption")
    first += sample("0000008_00001", " rain on a roof . ", clips=[[8.4, 48.6]])
    second = sample("000010000", "", caption="said in the JSON alone")
    second += sample("000010001", "a red wall", picture("red"), "jpg")
    second += sample("000010002", "  ")
    second += [("000010003.mp4", video), ("000010003.json", b"{not json")]
    write_tar(folder / "00000.tar", first)
    write_tar(folder / "00001.tar", second)
    return folder


def test_tars_of_others_give_the_samples_that_webdataset_gives(tars: Path, tokenizer: Path, tmp_path: Path) -> None:
    source = open_tars(f"{tars}/{{00000..00001}}.tar", tmp_path)
    found = build_from(source, tmp_path / "set", tokenizer)
    read: dict[str, dict[str, bytes]] = {}
    for path in sorted(tars.glob("*.tar")):
        with path.open("rb") as file:
            members = ({**member, "__url__": ""} for member in tariterators.tar_file_iterator(file))
            read |= {sample["__key__"]: sample for sample in tariterators.group_by_keys(members)}
    assert [item.id for item in source.items] == list(read)
    assert set(read) - set(found) == {"000010002", "000010003"}
    assert set(failures(tmp_path / "set").values()) == {"bad_annotation"}
    for key, about in found.items():
        sample = read[key]
        caption = sample["txt"].decode().strip() or json.loads(sample["json"])["caption"]
        assert said(about)[1] == caption
        assert about["source_bytes"] == len(sample.get("mp4", sample.get("jpg", b"")))
    assert [len(found[key]["frames"]) for key in ("000000014", "000010000", "000010001")] == [4, 4, 1]
    assert colour_of(found["000010001"]["frames"][0]) == "red"


def test_several_images_of_a_sample_are_in_the_order_of_their_numbers_and_several_videos_are_refused(
    tars: Path, tokenizer: Path, tmp_path: Path
) -> None:
    video = video_bytes(tmp_path / "made", 2)
    images = [(f"many.{number}.jpg", picture(colour)) for number, colour in ((10, "blue"), (9, "red"), (1, "green"))]
    members = [*images, ("many.txt", b"three colours"), ("two.0.mp4", video), ("two.1.mp4", video), ("two.txt", b"two")]
    source = load_chat_tars([write_tar(tmp_path / "several.tar", members)], tmp_path)
    found = build_from(source, tmp_path / "set", tokenizer)
    assert [colour_of(jpeg) for jpeg in found["many"]["frames"]] == ["green", "red", "blue"]
    assert failures(tmp_path / "set") == {"two": "bad_annotation"}
    assert "a chat is about one video, or about images; this one has 2 videos" in (
        (tmp_path / "set/failures.jsonl").read_text()
    )


def test_a_tar_that_was_cut_off_is_an_error_and_no_shorter_list(tars: Path, tmp_path: Path) -> None:
    whole = (tars / "00000.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ShardError, match=r"cut\.tar"):
        load_chat_tars([cut], tmp_path)
    with pytest.raises(MissingDataError, match=r"there is no tar .*00002\.tar.*OpenVid"):
        open_tars(f"{tars}/{{00001..00002}}.tar", tmp_path)


def test_tars_of_a_url_are_fetched_once_and_whole(tars: Path, tmp_path: Path) -> None:
    served: list[str] = []
    there = open_tars(f"{tars}/{{00000..00001}}.tar", tmp_path)
    with http_files(tars, served=served) as server:
        for _ in range(2):
            source = open_tars(f"{server}/{{00000..00001}}.tar", tmp_path / "scratch")
            assert [item.id for item in source.items] == [item.id for item in there.items]
        assert sorted(served) == ["/00000.tar", "/00001.tar"]
        with pytest.raises(MissingDataError, match=r"nothing\.tar cannot be fetched"):
            open_tars(f"{server}/nothing.tar", tmp_path / "scratch")
        assert len(list((tmp_path / "scratch").iterdir())) == 2


@pytest.mark.parametrize(
    ("tars", "refused"),
    [
        ("pipe:touch hacked", "is a command, and none is run"),
        ("https://host/'$(touch hacked)'.tar", "has a meaning in shells"),
        ("https://host/a.tar;touch hacked", "has a meaning in shells"),
        ("a{1..2", "not balanced"),
        ("{https://host/a.tar,b.tar}", "names paths and URLs"),
    ],
)
def test_nothing_in_a_list_of_tars_is_run(
    tars: str, refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=refused):
        open_tars(tars, tmp_path / "scratch")
    assert list(tmp_path.iterdir()) == []


def test_braces_name_all_tars() -> None:
    assert list(expand("w/{08..11}.tar")) == ["w/08.tar", "w/09.tar", "w/10.tar", "w/11.tar"]
