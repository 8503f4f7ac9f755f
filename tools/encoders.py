"""Frozen encoders by what a user calls them: a run, weights alone, or a published VideoMAE."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evaluation.encoder import Encoder, EncoderFacts, Kind, Trunk
from model.grid import GridConfig
from shards.format.views import hash_of
from tools.systems import system_of

if TYPE_CHECKING:
    from tools.systems.base import Recipe
    from training.checkpoint import Checkpoint

ALLOWED = (
    "Give the folder of a run, a checkpoint in it, a model.safetensors of one, or a VideoMAE: a folder made by "
    "save_pretrained, or an id on the Hub"
)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_encoder(
    checkpoint: str | Path, *, device: str | torch.device = "auto", dtype: str = "auto", overrides: Sequence[str] = ()
) -> Encoder:
    """Load a frozen encoder.

    Args:
        checkpoint: the folder of a run (its newest whole checkpoint counts), that of a checkpoint, a file
            `model.safetensors` copied anywhere, the folder of a VideoMAE, or its id on the Hub.
        device: such as "cuda:0"; "auto" takes the first GPU, or the CPU.
        dtype: of the arithmetic: "float32", "float16" or "bfloat16"; "auto" is bfloat16 on a GPU, float16
            on one without it, float32 on a CPU.
        overrides: of the recipe of a run or of weights, `--SECTION.NAME=VALUE`.

    Raises:
        ValueError: there is no such checkpoint, it is damaged, of another kind, or its weights do not fit its recipe.
    """
    from model.pretrained import choose_device
    from pipeline.accelerator import accelerator_of

    if dtype not in (*DTYPES, "auto"):
        raise ValueError(f"the encoder's dtype is {dtype!r}; choose auto, {', '.join(DTYPES)}")
    place = choose_device(str(device))
    precision = DTYPES.get(dtype) or accelerator_of(place).half or torch.float32
    trunk, facts, fresh = _load(str(checkpoint), overrides)
    return Encoder(trunk, facts, fresh=fresh, dtype=precision).to(place)


_Parts = tuple[Trunk, EncoderFacts, Callable[[], Trunk]]


def recipe_behind(checkpoint: str | Path, overrides: Sequence[str] = ()) -> Recipe | None:
    """The recipe that a run or its weights were made by; None of published models, which have none.

    Raises:
        ValueError: it cannot be read, or there are overrides and no recipe.
    """
    from tools.recipe import load_recipe, recipe_of
    from training.checkpoint import load_checkpoint, read_header

    path, found = Path(checkpoint), None
    if path.is_file():
        if "recipe" in (about := read_header(path)):
            found = recipe_of(about["recipe"], overrides, found_in=path)
    elif (path / "checkpoint.json").is_file():
        recorded = path.resolve().parent.parent / "recipe.yaml"
        if recorded.is_file():
            found = load_recipe(recorded, overrides, recorded=True)
        else:
            found = recipe_of(load_checkpoint(path).recipe, overrides, found_in=path)
    elif _is_run(path):
        found = load_recipe(path / "recipe.yaml", overrides, recorded=True)
    if found is None and overrides:
        raise ValueError(f"{overrides[0]} has no effect: {checkpoint} has no recipe")
    return found


def _load(checkpoint: str, overrides: Sequence[str]) -> _Parts:
    from training.checkpoint import load_checkpoint, newest_checkpoint

    path, recipe = Path(checkpoint), recipe_behind(checkpoint, overrides)
    if path.is_file():
        return _of_weights(path, recipe)
    if recipe is None:
        return _of_videomae(checkpoint)
    if (path / "checkpoint.json").is_file():
        found, run_dir = load_checkpoint(path), path.resolve().parent.parent
        return _trained(recipe, found, f"checkpoint {path}, step {found.step}", recorded_view(run_dir))
    newest = newest_checkpoint(path / "checkpoints")
    if newest is None:
        raise ValueError(f"{path} has no whole checkpoint; train one with `reelshard train --out {path}`")
    return _trained(recipe, newest, f"run {path}, step {newest.step}", recorded_view(path))


def _is_run(path: Path) -> bool:
    """Whether this is the folder of a run; False where it may be a published model.

    Raises:
        ValueError: it is neither.
    """
    advice = "--run is the --out of `reelshard train`"
    if not path.is_dir():
        if path.is_absolute() or str(path).startswith("."):  # no id on the Hub begins like this
            raise ValueError(f"there is no run folder or file {str(path)!r}; {advice}. {ALLOWED}")
        return False
    if (path / "config.json").is_file():
        return False
    for name in ("recipe.yaml", "run.json"):  # a data set has the first of them too
        if not (path / name).is_file():
            raise ValueError(f"{path} is no run folder: it has no {name}; {advice}. {ALLOWED}")
    return True


def recorded_view(run_dir: Path) -> str | None:
    """The hash of the view that a run was trained on, as its record says; None where it does not say."""
    from shards.format.files import read_small
    from shards.format.parse import mapping, parse_json, text

    with contextlib.suppress(OSError, ValueError, KeyError):  # runs of earlier versions do not say
        record = mapping(mapping(parse_json(read_small(run_dir / "run.json")), "a run")["dataset"], "its data set")
        return text(record["view_hash"], "its view")
    return None


def _trained(recipe: Recipe, checkpoint: Checkpoint, name: str, view_hash: str | None) -> _Parts:
    from training.initial import restore

    objective = make_untrained(recipe)
    restore(objective, checkpoint)
    known = hash_of(checkpoint.view) or view_hash
    return _of_objective(
        recipe, objective, name=name, kind="run", step=checkpoint.step, view=checkpoint.view, view_hash=known
    )


def _of_weights(path: Path, recipe: Recipe | None) -> _Parts:
    from training.checkpoint import read_weights
    from training.objective import declared
    from training.parts import kept_state, load_state

    tensors, about = read_weights(path)
    if recipe is None:
        raise ValueError(
            f"{path} does not say what it holds: it is no model.safetensors of a run, or one of an earlier version. "
            f"{ALLOWED}"
        )
    objective = make_untrained(recipe)
    load_state(objective, tensors, set(kept_state(objective, declared(objective))), f"the file {path}")
    view, step = about.get("view"), about.get("step")
    name = f"weights {path}, step {step}"
    return _of_objective(recipe, objective, name=name, kind="weights", step=step, view=view, view_hash=hash_of(view))


def make_untrained(recipe: Recipe) -> nn.Module:
    """A system's objective with the weights that a run of this recipe begins with; the global generator moves on."""
    torch.manual_seed(recipe.train.seed)
    return system_of(recipe).make_objective(recipe)


def _of_objective(
    recipe: Recipe,
    objective: nn.Module,
    *,
    name: str,
    kind: Kind,
    step: int | None,
    view: Mapping[str, Any] | None,
    view_hash: str | None,
) -> _Parts:
    """The encoder of an objective, as its system names it."""
    system = system_of(recipe)
    encoder: Any = system.encoder(objective)
    grid = getattr(encoder, "config", None)
    width = getattr(grid, "dim", None)
    if not isinstance(grid, GridConfig) or not isinstance(width, int):
        raise ValueError(
            f"the encoder of {system.title} does not say its grid and width: it needs a `config`, which is a "
            "`model.grid.GridConfig` with `dim`"
        )
    facts = EncoderFacts(
        name=name,
        kind=kind,
        clip_shape=(3, grid.num_frames, grid.image_size, grid.image_size),
        grid=(grid.num_times, grid.num_positions),
        width=width,
        view=view,
        view_hash=view_hash,
        step=step,
    )

    def fresh() -> Trunk:
        return _trunk(system.encoder(system.make_objective(recipe)))

    return _trunk(encoder), facts, fresh


def _trunk(encoder: Any) -> Trunk:
    return Trunk(encoder, tuple(getattr(encoder, "blocks", ())))


class _VideoMAE(nn.Module):
    """A VideoMAE of transformers, called as ours are."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised video `[B, 3, T, H, W]` to tokens `[B, N, D]`; there is no CLS token."""
        tokens: Tensor = self.backbone(pixel_values=pixels.transpose(1, 2)).last_hidden_state
        return tokens


def _of_videomae(name: str) -> _Parts:
    from transformers import VideoMAEModel

    from model.pretrained import load_pretrained
    from model.teacher import HEADS

    _refuse_other_model(name)
    loaded: Any = load_pretrained(
        VideoMAEModel, name, dtype=torch.float32, heads=HEADS, allowed=ALLOWED, what="encoder"
    )
    config = loaded.config
    side = config.image_size // config.patch_size
    facts = EncoderFacts(
        name=name,
        kind="videomae",
        clip_shape=(3, config.num_frames, config.image_size, config.image_size),
        grid=(config.num_frames // config.tubelet_size, side * side),
        width=config.hidden_size,
        view={"num_frames": config.num_frames, "size": config.image_size},
        final_norm=loaded.layernorm is not None,
    )

    def fresh() -> Trunk:
        return _videomae_trunk(VideoMAEModel(config))

    return _videomae_trunk(loaded), facts, fresh


def _videomae_trunk(backbone: Any) -> Trunk:
    encoder = getattr(backbone, "encoder", backbone)
    blocks = encoder.layer if hasattr(encoder, "layer") else encoder.layers
    return Trunk(_VideoMAE(backbone), tuple(blocks))


def _refuse_other_model(name: str) -> None:
    """Look at a published model's configuration, before transformers makes a VideoMAE of anything."""
    from transformers import PretrainedConfig

    from model.pretrained import one_line, quiet

    with quiet(), one_line(name, ALLOWED, "encoder"):
        found = PretrainedConfig.get_config_dict(name)[0]
        if not found:
            raise FileNotFoundError("there is no config.json.")
    if found.get("model_type") != "videomae":
        raise ValueError(f"the encoder {name!r} is a {found.get('model_type')!r}, not a VideoMAE. {ALLOWED}")
