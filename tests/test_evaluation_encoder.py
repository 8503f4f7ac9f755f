"""Frozen encoders: from a run, from its weights copied anywhere, and from a VideoMAE of transformers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import VideoMAEModel

from evaluation.encoder import Encoder, dense_clip, pixel_encoder
from model.st_jepa import STJEPAEncoder
from shards.dataset import ShardDataset
from shards.format.layout import clip_to_tubes
from shards.format.pixels import IMAGENET
from tests.datasets import FRAMES, PATCH, SIZE, TUBELET
from tests.evaluations import save_videomae
from tests.runs import MODEL
from tests.test_training_salt import write_recipe
from tests.workplaces import Workplace, make_workplace
from tools.cli import main
from tools.encoders import load_encoder
from training.checkpoint import load_checkpoint, read_header


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def run(place: Workplace) -> Path:
    """The folder of a run of one step."""
    out = Path(place.recipe).parent / "run"
    assert (
        main(["train", "--recipe", place.recipe, "--data", place.train, "--out", str(out), "--train.steps", "1"]) == 0
    )
    return out


@pytest.fixture(scope="module")
def videomae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_videomae(tmp_path_factory.mktemp("videomae"), seed=7)


def train(place: Workplace, out: Path) -> None:
    arguments = ["--recipe", place.recipe, "--data", place.train, "--out", str(out), "--train.steps", "1"]
    assert main(["train", *arguments]) == 0


def weights(run: Path) -> Path:
    return run / "checkpoints" / "step-00000001" / "model.safetensors"


def clips(count: int = 2) -> torch.Tensor:
    shape = (count, 3, FRAMES, SIZE, SIZE)
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def normalised(clip: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(part).view(1, 3, 1, 1, 1) for part in IMAGENET)
    return (clip / 255 - mean) / std


def test_a_run_gives_the_tokens_of_its_newest_checkpoint(run: Path) -> None:
    encoder = load_encoder(run)
    own = STJEPAEncoder(MODEL)
    kept = load_checkpoint(run / "checkpoints" / "step-00000001").model
    prefix = "student.encoder."
    own.load_state_dict({name.removeprefix(prefix): value for name, value in kept.items() if name.startswith(prefix)})
    expected = own(normalised(clips())).flatten(1, 2)  # token i is t * S + s
    torch.testing.assert_close(encoder(clips()), expected.detach(), rtol=1e-4, atol=1e-5)
    assert (encoder.kind, encoder.facts.step, encoder.grid, encoder.width) == ("run", 1, (2, 16), 32)
    assert encoder.name == f"run {run}, step 1"


def test_the_weights_alone_copied_anywhere_give_the_same_encoder(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "downloaded.safetensors"
    shutil.copy(weights(run), copied)
    encoder, other = load_encoder(copied), load_encoder(run)
    assert encoder.digest == other.digest
    assert torch.equal(encoder(clips()), other(clips()))
    assert encoder.kind == "weights"
    header = read_header(copied)
    assert header["step"] == 1
    assert header["recipe"]["model"]["dim"] == MODEL.dim
    assert header["recipe"]["train"]["steps"] == 1


def test_the_header_of_the_weights_holds_the_view_of_the_data(tmp_path: Path) -> None:
    place = make_workplace(tmp_path)
    view = {"hash": "c" * 64, "version": 1, "num_frames": 4}
    dataset = ShardDataset.open(place.train)
    replace(dataset.manifest, provenance={"view": view}).write(dataset.directory)
    out = tmp_path / "run"
    assert (
        main(["train", "--recipe", place.recipe, "--data", place.train, "--out", str(out), "--train.steps", "1"]) == 0
    )
    assert read_header(weights(out))["view"] == view
    assert load_encoder(weights(out)).view_hash == load_encoder(out).view_hash == "c" * 64
    assert load_checkpoint(weights(out).parent).view == view


def test_a_videomae_gives_what_transformers_gives_it(videomae: Path) -> None:
    encoder = load_encoder(str(videomae))
    model = VideoMAEModel.from_pretrained(videomae).eval()
    with torch.no_grad():
        found = model(pixel_values=normalised(clips()).transpose(1, 2), output_hidden_states=True)
    torch.testing.assert_close(encoder(clips()), found.last_hidden_state, rtol=1e-4, atol=1e-5)
    for number in (1, 2):
        torch.testing.assert_close(encoder.layer(clips(), number), found.hidden_states[number], rtol=1e-4, atol=1e-5)
    assert encoder.num_layers == 3
    assert encoder.view_hash is None
    assert encoder.view == {"num_frames": FRAMES, "size": SIZE}


@pytest.mark.parametrize("system", ["st_jepa", "salt"])
def test_a_layer_is_what_its_block_gives(system: str, run: Path, place: Workplace, tmp_path: Path) -> None:
    folder = run
    if system == "salt":
        folder = tmp_path / "run"
        recipe = str(write_recipe(tmp_path / "salt.yaml"))
        arguments = ["--data.global_batch_size", "4", "--optim.warmup", "0", "--train.steps", "1"]
        assert main(["train", "--recipe", recipe, "--data", place.train, "--out", str(folder), *arguments]) == 0
    encoder = load_encoder(folder)
    first, last = encoder.layers(clips(), (1, 2))
    assert first.shape == last.shape == (2, 32, 32)
    assert torch.equal(last, encoder(clips()))
    assert torch.equal(first, encoder.layer(clips(), 1))
    assert not torch.allclose(first, last)
    with pytest.raises(ValueError, match="has layers 1 to 2, there is no layer 3"):
        encoder.layer(clips(), 3)


def test_an_encoder_is_frozen_and_stays_in_evaluation_mode(run: Path) -> None:
    encoder = load_encoder(run)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.train().modules())
    assert not encoder(clips()).requires_grad


def test_the_untrained_encoder_is_drawn_by_its_seed_and_leaves_the_global_generator_alone(videomae: Path) -> None:
    encoder = load_encoder(str(videomae))
    before = torch.get_rng_state()
    first, again, other = encoder.untrained(0), encoder.untrained(0), encoder.untrained(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.digest == again.digest
    assert len({encoder.digest, first.digest, other.digest}) == 3
    assert first.kind == "untrained"
    assert first.layer(clips(), 2).shape == encoder.layer(clips(), 2).shape


def test_pixels_are_one_token_of_the_averaged_clip(run: Path) -> None:
    pixels: Encoder = pixel_encoder(load_encoder(run))
    flat = torch.full((1, 3, FRAMES, SIZE, SIZE), 255, dtype=torch.uint8)
    token = pixels(flat)
    assert token.shape == (1, 1, 3 * 2 * 64)
    torch.testing.assert_close(token.view(3, 2, 8, 8)[:, 0, 0, 0], normalised(flat.float())[0, :, 0, 0, 0])


def test_frames_and_tubes_of_a_loader_are_the_same_clip(run: Path) -> None:
    encoder = load_encoder(run)
    frames = clips().permute(0, 2, 3, 4, 1).contiguous()
    tubes = torch.stack([torch.from_numpy(clip_to_tubes(clip.numpy(), TUBELET, PATCH)) for clip in frames])
    assert torch.equal(dense_clip(frames, encoder), clips())
    assert torch.equal(dense_clip(tubes, encoder), clips())


@pytest.mark.parametrize("clip", [clips().float(), clips()[:, :, :2], clips()[..., :16]])
def test_clips_that_the_encoder_cannot_take_are_refused(run: Path, clip: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"takes clips u8 \[B, 3, 4, 32, 32\], got"):
        load_encoder(run)(clip)


def spoil(kind: str, run: Path, folder: Path) -> Path:
    """A checkpoint that is none."""
    file = folder / "model.safetensors"
    if kind == "cut":
        file.write_bytes(weights(run).read_bytes()[:-9])
    elif kind == "foreign":
        safetensors.torch.save_file({"x": torch.zeros(2)}, file)
    elif kind == "other system":
        recipe = read_header(weights(run))["recipe"] | {"system": "trap.py"}
        header = {"reelshard": json.dumps({"recipe": recipe, "step": 1, "view": None})}
        safetensors.torch.save_file(safetensors.torch.load_file(weights(run)), file, header)
    elif kind == "other model":
        recipe = read_header(weights(run))["recipe"]
        recipe["model"]["depth"] = 3
        header = {"reelshard": json.dumps({"recipe": recipe, "step": 1, "view": None})}
        safetensors.torch.save_file(safetensors.torch.load_file(weights(run)), file, header)
    elif kind == "no videomae":
        (folder / "config.json").write_text('{"model_type": "bert"}')
        return folder
    else:
        return folder / "nowhere"
    return file


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("cut", "is not a whole safetensors file"),
        ("foreign", "does not say what it holds"),
        ("other system", "does not come with this package: give the run's folder"),
        ("other model", "does not fit: student.encoder.blocks.2"),
        ("no videomae", "is a 'bert', not a VideoMAE"),
        ("missing", "there is no run folder or file"),
    ],
)
def test_a_wrong_checkpoint_is_one_clear_line(run: Path, tmp_path: Path, kind: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        load_encoder(spoil(kind, run, tmp_path))
    assert said in str(caught.value)


def test_values_for_a_recipe_are_refused_where_there_is_none(videomae: Path) -> None:
    with pytest.raises(ValueError, match=r"--model.dim=8 has no effect: .* has no recipe"):
        load_encoder(str(videomae), overrides=["--model.dim=8"])
