"""Chats as they are published: JSONL, LLaVA's JSON, tars of video2dataset, parquet of the Hub."""

from __future__ import annotations

import functools
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from webdataset import tariterators

from shards import MissingDataError, ShardDataset, ShardError
from shards.builder import BuildConfig, ChatKind, Source, build_dataset, load_chats
from shards.builder.sources.chat_open import open_chats
from shards.builder.sources.chat_parquet import load_chat_parquet
from shards.builder.sources.chat_tars import load_chat_tars
from tests.builds import failures
from tests.chats import VIEW, chat_config, scene, write_tokenizer
from tests.videos import write_video
from tools.chat_tars import expand, open_tars

CONFIG = BuildConfig(samples_per_shard=50, workers=2, time_limit_seconds=60.0)
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "bytes")


def build(source: Source, out: Path, tokenizer: Path, **changes: Any) -> dict[str, dict[str, Any]]:
    """Build, and return what each sample's JSON says by its id, with its frames."""
    build_dataset(source, out, kind=ChatKind.of(VIEW, chat_config(tokenizer, **changes)), config=CONFIG)
    dataset = ShardDataset.open(out)
    found = {}
    for number in range(len(dataset)):
        about = dict(dataset.metadata(number))
        found[about["id"]] = about | {"frames": dataset[number].get("frames", [])}
    return found


def picture(colour: str, size: tuple[int, int] = (40, 30), form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(file, form)
    return file.getvalue()


def colour_of(jpeg: bytes) -> str:
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.size == (28, 28)
        pixel: Any = image.getpixel((14, 14))
    return min(COLOURS, key=lambda name: sum(abs(a - b) for a, b in zip(COLOURS[name], pixel, strict=True)))


def video_bytes(folder: Path, seconds: int) -> bytes:
    return write_video(folder / "v.mp4", scene(seconds, "red", "left"), codec="libx264", rate=1).read_bytes()


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return path


def said(about: Mapping[str, Any]) -> list[str]:
    return [turn["content"] for turn in about["messages"]]


def test_several_images_are_frames_in_their_order(tokenizer: Path, tmp_path: Path) -> None:
    for name in COLOURS:
        (tmp_path / f"{name}.png").write_bytes(picture(name, form="PNG"))
    chats = write_lines(
        tmp_path / "chats.jsonl",
        [
            {"id": "three", "images": ["blue.png", "red.png", "green.png"], "caption": "three colours"},
            {"id": "one", "images": ["green.png"], "caption": "one colour"},
            {"id": "many", "images": ["red.png"] * 65, "caption": "too many"},
        ],
    )
    found = build(load_chats(chats), tmp_path / "set", tokenizer)
    assert [colour_of(jpeg) for jpeg in found["three"]["frames"]] == ["blue", "red", "green"]
    assert [colour_of(jpeg) for jpeg in found["one"]["frames"]] == ["green"]
    assert failures(tmp_path / "set") == {"many": "bad_annotation"}
    assert "it has 65 images, and view.max_frames keeps 64" in (tmp_path / "set/failures.jsonl").read_text()


def test_llavas_records_lose_their_placeholders_and_keep_their_turns(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture("red"))
    (tmp_path / "v.mp4").write_bytes(video_bytes(tmp_path / "made", 3))

    def talk(asked: str, answer: str = "Yes.") -> list[dict[str, str]]:
        return [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]

    records = [
        {"id": 7, "image": "a.jpg", "conversations": talk("<image>\nIs it red?")},
        {"id": "v", "video": "v.mp4", "conversations": talk("<image>\nDoes it move?"), "data_source": "made"},
        {"id": "t", "conversations": talk("2 + 2?", "4"), "system_prompt": "Be brief."},
        {"id": "two", "video": ["v.mp4", "v.mp4"], "conversations": talk("<video><video>Which?")},
        {"id": "mixed", "video": "v.mp4", "image": "a.jpg", "conversations": talk("Which?")},
        {"id": "outside", "image": "../a.jpg", "conversations": talk("Which?")},
        {"id": "speaker", "image": "a.jpg", "conversations": [{"from": "cat", "value": "miaow"}]},
        {"id": "7", "image": "a.jpg", "instruction": "Is it blue?", "output": "No."},
    ]
    path = tmp_path / "llava.json"
    path.write_text(json.dumps(records))
    found = build(load_chats(path), tmp_path / "set", tokenizer)
    assert said(found["7"]) == ["Is it red?", "Yes."]
    assert said(found["7-2"]) == ["Is it blue?", "No."]  # of one picture
    assert (said(found["v"]), len(found["v"]["frames"]), found["v"]["source"]) == (["Does it move?", "Yes."], 3, "made")
    assert (said(found["t"]), found["t"]["frames"]) == (["Be brief.", "2 + 2?", "4"], [])
    assert set(failures(tmp_path / "set")) == {"two", "mixed", "outside", "speaker"}
    assert set(failures(tmp_path / "set").values()) == {"bad_annotation"}


def test_a_file_of_something_else_is_refused_with_its_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "a", "caption": "b"}\n{"id": \n')
    with pytest.raises(ShardError, match=r"broken\.jsonl, line 2: it is not JSON"):
        load_chats(broken)
    with pytest.raises(ShardError, match="no record is a chat; of the first one: it has neither messages nor a"):
        load_chats(write_lines(tmp_path / "other.jsonl", [{"foo": 1}, {"bar": 2}]))
    (tmp_path / "object.json").write_text("{}")
    with pytest.raises(ShardError, match="holds a dict, expected a list of chats"):
        load_chats(tmp_path / "object.json")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(MissingDataError, match="holds no chat"):
        load_chats(tmp_path / "empty.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ShardError, match="not text in UTF-8"):
        load_chats(tmp_path / "bytes.jsonl")


@pytest.mark.parametrize("annotations", ["nothing.jsonl", "nothing.parquet", "chats.xml"])
def test_what_is_missing_is_said_with_the_official_pages(tmp_path: Path, annotations: str) -> None:
    for page in ("datasets/nkp37/OpenVid-1M", "HuggingFaceM4/the_cauldron", "HuggingFaceTB/smoltalk", "m-bain/webvid"):
        with pytest.raises(MissingDataError, match=page):
            open_chats(tmp_path, tmp_path / annotations, "train")
    with pytest.raises(MissingDataError, match="has to hold one file of chats, or it is named; found: none"):
        open_chats(tmp_path, None, "train")


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
    found = build(source, tmp_path / "set", tokenizer)
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


def test_a_tar_that_was_cut_off_is_an_error_and_no_shorter_list(tars: Path, tmp_path: Path) -> None:
    whole = (tars / "00000.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ShardError, match=r"cut\.tar"):
        load_chat_tars([cut], tmp_path)
    with pytest.raises(MissingDataError, match=r"there is no tar .*00002\.tar.*OpenVid"):
        open_tars(f"{tars}/{{00001..00002}}.tar", tmp_path)


class Quiet(http.server.SimpleHTTPRequestHandler):
    served: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.served.append(self.path)
        super().do_GET()

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def server(tars: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(tars))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_tars_of_a_url_are_fetched_once_and_whole(server: str, tars: Path, tmp_path: Path) -> None:
    Quiet.served.clear()
    there = open_tars(f"{tars}/{{00000..00001}}.tar", tmp_path)
    for _ in range(2):
        source = open_tars(f"{server}/{{00000..00001}}.tar", tmp_path / "scratch")
        assert [item.id for item in source.items] == [item.id for item in there.items]
    assert sorted(Quiet.served) == ["/00000.tar", "/00001.tar"]
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


def write_cauldron(folder: Path) -> Path:
    """Rows in groups of two, as the Hub has them, only smaller."""
    rows = [
        {
            "images": [{"bytes": picture(colour), "path": None}],
            "texts": [
                {"user": "Question: Which colour?", "assistant": f"Answer: {colour}", "source": "walls"},
                {"user": "Is it a wall?", "assistant": "Yes.", "source": "walls"},
            ],
        }
        for colour in COLOURS
    ]
    rows.append({"images": [{"bytes": b"no image", "path": "x.png"}], "texts": rows[0]["texts"]})
    (folder / "walls").mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), folder / "walls/train-00000-of-00001-ab.parquet", row_group_size=2)
    return folder


def test_the_cauldrons_parquet_gives_images_and_all_its_questions(tokenizer: Path, tmp_path: Path) -> None:
    found = build(load_chat_parquet(write_cauldron(tmp_path / "raw")), tmp_path / "set", tokenizer)
    for number, colour in enumerate(COLOURS):
        about = found[f"walls/train-00000-of-00001-ab-{number:06d}"]
        assert said(about) == ["Question: Which colour?", f"Answer: {colour}", "Is it a wall?", "Yes."]
        assert [colour_of(jpeg) for jpeg in about["frames"]] == [colour]
        assert about["source"] == "walls"
    assert list(failures(tmp_path / "set").values()) == ["decode_error"]


def test_smoltalks_parquet_and_the_same_as_jsonl_give_the_same_tokens(tokenizer: Path, tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"content": "Answer shortly.", "role": "system"},
                {"content": f"{n} + 1?", "role": "user"},
                {"content": str(n + 1), "role": "assistant"},
            ],
            "source": "smol-made-up",
        }
        for n in range(5)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    one = build(open_chats(tmp_path, tmp_path / "test.parquet", "test"), tmp_path / "one", tokenizer, frames=False)
    lines = write_lines(tmp_path / "test.jsonl", rows)
    two = build(load_chats(lines), tmp_path / "two", tokenizer, frames=False)
    assert [said(one[f"test-{n:06d}"]) for n in range(5)] == [said(two[f"test-{n:08d}"]) for n in range(5)]
    tokens = [{about["id"]: about["num_tokens"] for about in found.values()} for found in (one, two)]
    assert sorted(tokens[0].values()) == sorted(tokens[1].values())
    assert {about["source"] for about in one.values()} == {"smol-made-up"}


def test_other_parquet_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ShardError, match="has the columns a; columns of chats are"):
        load_chat_parquet(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(ShardError, match=r"text\.parquet is not readable parquet"):
        load_chat_parquet(tmp_path / "text.parquet")


def test_a_table_of_captions_is_a_source_of_chats(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    (tmp_path / "video/---a_0to241.mp4").write_bytes(video_bytes(tmp_path / "made", 2))
    (tmp_path / "OpenVid.csv").write_text("video,caption,aesthetic score\n---a_0to241.mp4,A square hops.,4.9\n")
    found = build(open_chats(tmp_path / "video", tmp_path / "OpenVid.csv", "train"), tmp_path / "set", tokenizer)
    (about,) = found.values()
    assert said(about) == ["What would be the WebVid caption for this video?", "A square hops."]
    assert len(about["frames"]) == 2
