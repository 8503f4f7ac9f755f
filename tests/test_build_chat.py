"""The kind `chat`: videos or images with what is said of them, as frames and tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from shards import ShardDataset, ShardError, verify_dataset
from shards.builder import ChatKind, load_chats
from shards.builder.samples.chat import CHAT_VIEW
from tests.builds import contents, failures, kill_all, start_python
from tests.chats import CONFIG, VIEW, build_chats, chat_config, make_chat_sets, write_chats, write_tokenizer
from tests.videos import DECODERS
from tools.cli import main
from training.metrics import read_metrics


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "bytes")


def text_of(tokenizer: Path, ids: Any) -> str:
    return str(AutoTokenizer.from_pretrained(tokenizer).decode(ids, skip_special_tokens=False))


def test_a_chat_has_a_frame_for_each_second_and_the_tokens_of_its_template(tokenizer: Path, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "raw", [0, 1, 2, 64, 65])
    summary = build_chats(chats, tmp_path / "set", chat_config(tokenizer))
    assert (summary.num_samples, summary.failures) == (5, {})
    dataset = ShardDataset.open(tmp_path / "set")
    assert not verify_dataset(tmp_path / "set").problems
    records = {record["id"]: record for record in map(json.loads, chats.read_text().splitlines())}
    reference = AutoTokenizer.from_pretrained(tokenizer)
    for number in range(5):
        about, sample = dataset.metadata(number), dataset[number]
        seconds = [0, 1, 2, 64, 65][int(about["id"][-4:])]
        assert len(sample["frames"]) == len(sample["times"]) == about["num_frames"] == min(seconds, 64)
        record, messages = records[about["id"]], about["messages"]
        assert messages[-1]["content"] == record.get("caption", messages[-1]["content"])
        assert text_of(tokenizer, sample["tokens"]) == reference.apply_chat_template(messages, tokenize=False)
        said = np.asarray(sample["tokens"])[np.asarray(sample["answer"]) == 1]
        assert text_of(tokenizer, said) == messages[-1]["content"] + "<|im_end|>"
        assert about["source"] == "scenes"
        assert about["truncated"] is False


def test_a_frozen_set_is_its_limit_and_its_digest(tokenizer: Path, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "raw", [1, 2, 3, 0, 4, 5, 6, 2])
    lines = chats.read_text().splitlines()
    again = chats.with_name("again.jsonl")
    again.write_text("\n".join(reversed(lines)) + "\n")  # whatever the order in which the chats are listed
    config = replace(CONFIG, workers=1, samples_per_shard=2)
    built = {
        name: build_chats(source, tmp_path / name, chat_config(tokenizer), limit=limit, config=config)
        for name, source, limit in (("first", chats, 5), ("second", again, 5), ("more", chats, 6))
    }
    assert [built[name].num_samples for name in built] == [5, 5, 6]
    assert built["first"].digest == built["second"].digest == ShardDataset.open(tmp_path / "first").digest
    assert built["more"].digest != built["first"].digest


def test_sets_of_text_have_no_frames(tmp_path: Path) -> None:
    sets = make_chat_sets(tmp_path, num_videos=3, num_texts=3)
    assert sets["video"].schema.names == ("frames", "times", "tokens", "answer", "json")
    assert sets["text"].schema.names == ("tokens", "answer", "json")
    assert CONFIG.samples_per_shard >= 3
    assert sets["video"].manifest.provenance["view"]["hash"] == VIEW.hash


def test_a_long_chat_is_cut_and_says_so_and_an_answer_cut_away_is_a_failure(tokenizer: Path, tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    records: list[dict[str, Any]] = [
        {"id": name, "caption": "x" * length} for name, length in (("short", 5), ("long", 200))
    ]
    asks = {"role": "user", "content": "y" * 300}
    records.append({"id": "cut", "messages": [asks, {"role": "assistant", "content": "no"}]})
    chats.write_text("\n".join(map(json.dumps, records)))
    build_chats(chats, tmp_path / "set", chat_config(tokenizer, frames=False, max_tokens=120))
    dataset = ShardDataset.open(tmp_path / "set")
    found = {dataset.key(n): (dataset.metadata(n), dict(dataset[n])) for n in range(len(dataset))}
    assert failures(tmp_path / "set") == {"cut": "answer_cut"}
    assert "begins behind the 120 tokens (chat.max_tokens)" in (tmp_path / "set/failures.jsonl").read_text()
    about, sample = found["long"]
    assert (about["truncated"], about["num_tokens"], len(sample["tokens"])) == (True, 200 + about_prompt(found), 120)
    assert found["short"][0]["truncated"] is False


def about_prompt(found: dict[str, Any]) -> int:
    """Tokens of a chat beside its caption."""
    return int(found["short"][0]["num_tokens"]) - 5


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": [{"role": "user", "content": "Hello?"}]}, "nobody answers in it"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}, "nobody answers"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "a turn has the role 'tool'"),
        ({"messages": []}, "messages is a list of turns"),
        ({"caption": "  "}, "neither messages nor a caption"),
        ({"caption": 3}, "neither messages nor a caption"),
        ({"video": "v.mp4", "caption": "a"}, "there is no such file"),
        ({"video": "/etc/passwd", "caption": "a"}, "paths are relative"),
    ],
)
def test_a_record_that_is_no_chat_is_a_failure_with_its_reason(
    tokenizer: Path, tmp_path: Path, record: dict[str, Any], reason: str
) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"id": "good", "caption": "a"}) + "\n" + json.dumps({"id": "bad", **record}))
    summary = build_chats(chats, tmp_path / "set", chat_config(tokenizer))
    assert (summary.num_samples, summary.num_failed) == (1, 1)
    assert reason in (tmp_path / "set/failures.jsonl").read_text()


def test_pictures_in_a_set_of_text_are_failures(tokenizer: Path, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "raw", [0, 2])
    summary = build_chats(chats, tmp_path / "set", chat_config(tokenizer, frames=False))
    assert summary.failures == {"bad_annotation": 1}


def test_both_decoders_take_the_same_frames_of_one_hashed_view(tokenizer: Path, tmp_path: Path) -> None:
    kind = ChatKind.of(VIEW, chat_config(tokenizer))
    source = load_chats(write_chats(tmp_path / "raw", [1, 5, 64, 65]))
    made = []
    for decoder in DECODERS:
        decoded = replace(kind, decoder=decoder)
        made.append([decoded.prepare(source.root, item) for item in source.items])
        view: Any = decoded.fingerprint()["view"]
        assert view["hash"] == VIEW.hash
    assert [len(prepared.blobs["frames"]) for prepared in made[0]] == [1, 5, 64, 64]
    assert all(
        one.blobs["frames"] == other.blobs["frames"] for some in made for one, other in zip(made[0], some, strict=True)
    )
    assert made[0][3].facts["frame_indices"] == tuple((2 * i + 1) * 65 // 128 for i in range(64))
    assert CHAT_VIEW.hash == replace(CHAT_VIEW).hash != VIEW.hash
    assert (CHAT_VIEW.fps, CHAT_VIEW.max_frames, CHAT_VIEW.size) == (1.0, 64, 224)


def test_another_tokenizer_template_or_prompt_is_another_plan(tokenizer: Path, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "raw", [0, 0])
    text = chat_config(tokenizer, frames=False)
    build_chats(chats, tmp_path / "set", text)
    other = write_tokenizer(tmp_path / "other", merges=[("a", "b")])
    for changed, what in (
        (replace(text, tokenizer=str(other)), r"sample\.tokenizer"),
        (replace(text, template="literal"), r"sample\.template"),
        (replace(text, prompt="Say what you see."), r"sample\.prompt"),
        (replace(text, max_tokens=99), r"sample\.max_tokens"),
    ):
        with pytest.raises(ShardError, match=f"was begun with another plan: .*{what}"):
            build_chats(chats, tmp_path / "set", changed)


# argv: chats, tokenizer, out, items after which to say so and wait
WAITING_BUILDER = """
import sys
from pathlib import Path
from tests.chats import build_chats, chat_config
items = 0
def progress(done, failed):
    global items
    items += done
    if items >= int(sys.argv[4]):
        print("here", flush=True)
        sys.stdin.readline()
build_chats(Path(sys.argv[1]), Path(sys.argv[3]), chat_config(Path(sys.argv[2])), progress=progress)
"""


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(tokenizer: Path, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "raw", [number % 6 for number in range(20)])
    build_chats(chats, tmp_path / "whole", chat_config(tokenizer))
    with start_python(WAITING_BUILDER, chats, tokenizer, tmp_path / "killed", 12) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "here\n"
        kill_all(builder)
    assert not (tmp_path / "killed/dataset.json").exists()
    again = build_chats(chats, tmp_path / "killed", chat_config(tokenizer))
    assert again.num_samples == 20
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


RECIPE = """
system: {system}
view: {{size: 28}}
chat: {{tokenizer: {tokenizer}, max_tokens: 256}}
data:
  length_budget: {{frames: 24, tokens: 1200}}
  mix: {{video: 0.86, text: 0.14}}
train: {{steps: 8, device: cpu, log_every: 8}}
optim: {{lr: 1.0e-3, warmup: 2}}
"""


def test_the_commands_build_look_train_and_measure(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    system = Path(__file__).parent / "chat_system.py"
    Path("recipe.yaml").write_text(RECIPE.format(system=system, tokenizer=tokenizer))
    recipe = ["--recipe", "recipe.yaml"]
    video = write_chats(tmp_path / "raw", [1 + number % 7 for number in range(16)])
    text = write_chats(tmp_path / "raw_text", [0] * 6)
    assert main(["build", *recipe, "--annotations", str(video), "--out", "video"]) == 0
    assert main(["build", *recipe, "--annotations", str(text), "--chat.frames", "false", "--out", "text"]) == 0
    assert "16 of 16 samples" in capsys.readouterr().out
    assert str(tokenizer) not in Path("video/recipe.yaml").read_text()  # of this machine
    assert main(["verify", "video", "text", "--content", "--sources", str(video.parent)]) == 1  # text has no videos
    assert main(["verify", "video", "--content", "--sources", str(video.parent)]) == 0
    assert main(["show", "video", *recipe, "--source", "video"]) == 0
    assert main(["bench", "video", *recipe, "--source", "video", "--threads", "1", "--seconds", "0.1"]) == 0
    assert "decoded/s a" in capsys.readouterr().out
    assert main(["train", *recipe, "--data", "video=video", "--data", "text=text", "--out", "run"]) == 0
    row = read_metrics(Path("run/metrics.jsonl"))[-1]
    assert row["share_batches_text"] + row["share_batches_video"] == 1
    assert 0 < row["share_tokens_text"] < 1
    assert 0 <= row["padding_frames"] < 0.5
    assert "padding_tokens" in capsys.readouterr().out
    other = write_tokenizer(tmp_path / "other", merges=[("a", "b")])
    sets = ["--data", "video=video", "--data", "text=text", "--out", "other_run"]
    assert main(["train", *recipe, *sets, f"--chat.tokenizer={other}"]) == 1
    assert "video holds the tokens of bytes, the recipe's model reads those of other" in capsys.readouterr().err
    Path("larger.yaml").write_text(Path("recipe.yaml").read_text().replace("size: 28", "size: 56"))
    assert main(["train", "--recipe", "larger.yaml", *sets]) == 1
    assert "holds pictures of 28 px, the recipe's view is of 56 px" in capsys.readouterr().err
    assert main(["build", *recipe, "--tars", "pipe:touch hacked", "--out", "x"]) == 1
    assert main(["build", *recipe, "--tars", "x.tar", "--videos", "raw", "--out", "x"]) == 1
    assert main(["build", *recipe, "--out", "x"]) == 1
    assert main(["build", "--recipe", "frames", "--tars", "x.tar", "--out", "x"]) == 1
    said = capsys.readouterr().err
    for line in ("is a command, and none is run", "leave --videos and", "nothing to build from", "not built from tars"):
        assert line in said
    assert not Path("hacked").exists()
