"""What a trained VLM writes about a file, and how it leaves for other libraries."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from model.foveated import FoveatedConfig, load_foveated
from model.generate import generate
from shards.dataset import ShardDataset
from tests.chats import scene
from tests.fvlm_runs import Workshop
from tests.videos import write_video
from tools.cli import main
from tools.recipe import load_recipe
from tools.systems.asking import pictures_of
from tools.systems.fvlm import SYSTEM, FoveatedRecipe
from tools.trained import open_run


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop.make(tmp_path_factory.mktemp("caption"))


@pytest.fixture(scope="module")
def run(workshop: Workshop) -> Path:
    recipe, out = workshop.recipe(2, train={"steps": 4}), workshop.folder / "run"
    assert main(["train", "--recipe", str(recipe), *workshop.sources(), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def video(workshop: Workshop) -> Path:
    path = workshop.folder / "scene.mp4"
    write_video(path, scene(5, "red", "left"), codec="libx264", rate=1)
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["caption", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_caption_is_what_the_model_writes_behind_the_frames_and_the_prompt(
    workshop: Workshop, run: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    found = said(capsys, video, "--run", run, "--question", "What colour is it?", "--max-new-tokens", "7")
    recipe, objective, step = open_run(run)
    assert isinstance(recipe, FoveatedRecipe)
    assert step == 4
    tokenizer = AutoTokenizer.from_pretrained(workshop.folder / "tokenizer")
    asked = [{"role": "user", "content": "What colour is it?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    pictures = SYSTEM.speaker(recipe, objective, "it").read(video)
    frames = torch.from_numpy(np.stack(pictures.frames)).movedim(-1, 1)
    assert frames.shape == (5, 3, 28, 28)
    assert pictures.moving
    model: Any = objective.get_submodule("model")
    expected = list(generate(model, frames, torch.tensor(prompt), max_new_tokens=7))
    assert found["num_tokens"] == len(expected) == 7
    assert found["text"] == tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert found["seconds_to_first_token"] > 0
    assert found["tokens_per_second"] > 0


def test_the_frames_are_those_that_a_data_set_has(workshop: Workshop) -> None:
    recipe = load_recipe(workshop.recipe(2))
    dataset = ShardDataset.open(workshop.folder / "video")
    reads = SYSTEM.feed(recipe, dataset).reads
    for number in (0, 7):
        about = dataset.metadata(number)
        path = workshop.folder / "raw_video" / about["path"]
        frames = pictures_of(path, recipe.view, recipe.chat.quality, recipe.build.decoder).frames
        stored = dataset[number]["frames"]
        assert len(frames) == len(stored) == about["num_frames"]
        for frame, piece in zip(frames, stored, strict=True):
            out = {"frames": np.zeros((3, *frame.shape[:2]), np.uint8)}
            reads.decoders["frames"](memoryview(bytes(piece)), out, 0)
            assert np.array_equal(out["frames"], frame.transpose(2, 0, 1))


def test_an_image_is_one_frame_and_the_recipes_prompt_is_asked(
    workshop: Workshop, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(scene(1, "blue", "right")[0]).save(tmp_path / "still.png")
    prompt = "What would be the WebVid caption for this video?"
    one, same = (
        said(capsys, tmp_path / "still.png", "--run", run, "--max-new-tokens", "5", *more)
        for more in ((), ("--question", prompt))
    )
    assert one["text"] == same["text"]
    assert main(["caption", str(tmp_path / "still.png"), "--run", str(run), "--max-new-tokens", "3"]) == 0
    assert re.search(r"3 tokens, the first after [\d.]+ s, then [\d.]+ a second", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "content", "more", "message"),
    [
        ("nowhere.mp4", None, [], "there is no file"),
        ("empty.mp4", b"", [], r"cannot be read \(empty_file\)"),
        ("text.mp4", b"no video", [], "cannot be read"),
        ("text.png", b"no image", [], r"cannot be read \(decode_error\)"),
        ("text.png", b"no image", ["--max-new-tokens", "0"], "give 1 or more"),
    ],
)
def test_a_file_that_is_none_of_these_is_refused_in_one_line(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    more: list[str],
    message: str,
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    capsys.readouterr()
    assert main(["caption", str(tmp_path / name), "--run", str(run), *more]) == 1
    error = capsys.readouterr().err.strip()
    assert re.search(message, error), error
    assert len(error.splitlines()) == 1


def test_what_is_exported_is_read_by_transformers_and_is_the_run(
    workshop: Workshop, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, Dinov2Model

    out = tmp_path / "deep" / "exported"
    assert main(["export", "--run", str(run), "--out", str(out)]) == 0
    assert "of step 4" in capsys.readouterr().out
    _, objective, _ = open_run(run)
    trained: Any = objective.get_submodule("model")
    for cls, name in ((AutoModelForCausalLM, "llm"), (Dinov2Model, "dinov2")):
        part, loaded = cls.from_pretrained(out / name, output_loading_info=True)
        assert not any(loaded.values())
        torch.testing.assert_close(part.state_dict(), trained.get_submodule(name).state_dict(), rtol=0, atol=0)
    assert len(AutoTokenizer.from_pretrained(out / "llm")) == 259
    config = json.loads((out / "foveated.json").read_text())
    config |= {name: str(out / config[name]) for name in ("dinov2", "llm")}
    again = load_foveated(FoveatedConfig(**config))
    missing, unexpected = again.load_state_dict(
        safetensors.torch.load_file(out / "connector.safetensors"), strict=False
    )
    assert unexpected == []
    assert all(name.startswith(("dinov2.", "llm.")) for name in missing)
    torch.testing.assert_close(again.state_dict(), trained.state_dict(), rtol=0, atol=0)
    assert main(["export", "--run", str(run), "--out", str(out)]) == 1
    assert "is there already" in capsys.readouterr().err


def test_an_export_that_cannot_be_finished_leaves_nothing(
    workshop: Workshop, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "--run", str(run), "--out", str(tmp_path / "out"), "--chat.tokenizer", "/nowhere/at/all"]
    assert main(arguments) == 1
    assert "cannot load the tokenizer" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_student_that_does_not_speak_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tools.systems.st_jepa import SYSTEM as ST_JEPA

    recipe = ST_JEPA.recipe()
    with pytest.raises(ValueError, match="ST-JEPA writes no text"):
        ST_JEPA.speaker(recipe, torch.nn.Identity(), "it")
    with pytest.raises(ValueError, match="ST-JEPA is exported nowhere"):
        ST_JEPA.export(recipe, torch.nn.Identity(), tmp_path)
