"""Chats as they are published: JSONL, LLaVA's JSON, parquet of the Hub, tables of captions."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from shards import MissingDataError, ShardError
from shards.builder import load_chats
from shards.builder.sources.chat_open import open_chats
from shards.builder.sources.chat_parquet import load_chat_parquet
from shards.builder.sources.chat_records import item_of
from tests.builds import failures
from tests.chat_files import COLOURS, build_from, colour_of, picture, said, video_bytes, write_lines
from tests.chats import write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "bytes")


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
    found = build_from(load_chats(chats), tmp_path / "set", tokenizer)
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
        {"id": "pair", "image": ["a.jpg", "a.jpg"], "conversations": talk("<image> or <image>?")},
        {"id": "places", "image": ["a.jpg", "a.jpg"], "conversations": talk("<image>\nWhich of three? <image><image>")},
        {"id": "speaker", "image": "a.jpg", "conversations": [{"from": "cat", "value": "miaow"}]},
        {"id": "7", "image": "a.jpg", "instruction": "Is it blue?", "output": "No."},
    ]
    path = tmp_path / "llava.json"
    path.write_text(json.dumps(records))
    found = build_from(load_chats(path), tmp_path / "set", tokenizer)
    assert said(found["7"]) == ["Is it red?", "Yes."]
    assert said(found["7-2"]) == ["Is it blue?", "No."]  # of one picture
    assert (said(found["v"]), len(found["v"]["frames"]), found["v"]["source"]) == (["Does it move?", "Yes."], 3, "made")
    assert (said(found["t"]), found["t"]["frames"]) == (["Be brief.", "2 + 2?", "4"], [])
    assert set(failures(tmp_path / "set")) == {"two", "mixed", "outside", "places", "speaker"}
    told = (tmp_path / "set/failures.jsonl").read_text()
    assert "a chat is about one video, or about images; this one names 2 video(s) and 0 image(s)" in told
    assert "its turns have places for 3 pictures or videos, and it names 0 video(s) and 2 image(s)" in told
    assert len(found["pair"]["frames"]) == 2
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
    found = build_from(load_chat_parquet(write_cauldron(tmp_path / "raw")), tmp_path / "set", tokenizer)
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
    one = build_from(open_chats(tmp_path, tmp_path / "test.parquet", "test"), tmp_path / "one", tokenizer, frames=False)
    lines = write_lines(tmp_path / "test.jsonl", rows)
    two = build_from(load_chats(lines), tmp_path / "two", tokenizer, frames=False)
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
    found = build_from(open_chats(tmp_path / "video", tmp_path / "OpenVid.csv", "train"), tmp_path / "set", tokenizer)
    (about,) = found.values()
    assert said(about) == ["What would be the WebVid caption for this video?", "A square hops."]
    assert len(about["frames"]) == 2


def test_webvids_list_names_videos_by_page_and_id(tokenizer: Path, tmp_path: Path) -> None:
    for page, name in (("027701_027750", "1000000001"), ("054101_054150", "2000002")):
        (tmp_path / "videos" / page).mkdir(parents=True)
        (tmp_path / "videos" / page / f"{name}.mp4").write_bytes(video_bytes(tmp_path / name, 2))
    table = tmp_path / "results_2M_val.csv"
    table.write_text(
        "videoid,name,page_idx,page_dir,duration,contentUrl\n"
        '1000000001,"A cyclist crosses a bridge, slow motion.",27732,027701_027750,PT00H00M17S,https://example.org/a\n'
        "2000002,Rain on a tin roof - close up,28620,054101_054150,PT00H00M24S,https://example.org/b\n"
        "3,Not downloaded,28620,054101_054150,PT00H00M24S,https://example.org/c\n"
    )
    found = build_from(open_chats(tmp_path / "videos", table, "val"), tmp_path / "set", tokenizer)
    assert said(found["1000000001"])[1] == "A cyclist crosses a bridge, slow motion."
    assert (len(found["2000002"]["frames"]), found["2000002"]["source"]) == (2, "webvid")
    assert failures(tmp_path / "set") == {"3": "missing_file"}
    table.write_text("videoid,name,page_dir\n../../x,a,b\n")
    with pytest.raises(ShardError, match="a folder and the id of a video are expected"):
        open_chats(tmp_path / "videos", table, "val")


def test_true_records_of_public_sets_are_chats(layouts: Path) -> None:
    llava = layouts / "llava"
    talks = [json.loads(line) for line in (llava / "coco2014_val_gpt4_qa.excerpt.jsonl").read_text().splitlines()]
    assert len(talks) == 6
    for record in talks:
        item = item_of(record, "x")
        assert item.problem is None
        assert item.path == record["image"]
        assert [turn["content"] for turn in item.extra["messages"]] == [record["instruction"], record["output"]]
    assert len({item.id for item in load_chats(llava / "coco2014_val_gpt4_qa.excerpt.jsonl").items}) == 6
    (record,) = json.loads((llava / "llava_video_178k.shape.json").read_text())
    item = item_of(record, "x")
    assert (item.path, item.extra["source"]) == (record["video"], "0_30_s_nextqa")
    assert item.extra["messages"][0]["content"].startswith("why is the blue sweater guy")
    webvid = open_chats(layouts, layouts / "webdataset/webvid.shape.csv", "train").items
    assert [item.path for item in webvid][1] == "054101_054150/2000002.mp4"
    (record,) = json.loads((llava / "finetune_custom_data.example.json").read_text())
    assert item_of(record, "x").extra["messages"][0]["content"].startswith("Write a prompt")
    (record,) = json.loads((llava / "mixed_video_image.example.json").read_text())
    problem = item_of(record, "x").problem
    assert problem is not None
    assert "2 video(s) and 1 image(s)" in problem[1]
    smoltalk = json.loads((llava / "smoltalk.record.json").read_text())
    assert item_of(smoltalk, "x").extra["messages"] == smoltalk["messages"]
