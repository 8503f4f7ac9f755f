"""Models that are asked about pictures, by what a user calls them: a run, or a published image-text-to-text model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.builder.decode.view import ViewSpec
from shards.builder.sources.folder import VIDEO_SUFFIXES

if TYPE_CHECKING:
    import torch

    from evaluation.speaker import Likelihood, Message, Pictures, Speaker
    from model.image_text import ImageTextModel

MAX_FRAMES, QUALITY = 64, 95
WORDS = 512  # tokens that are left to question and answer
VIDEO_SIDE, IMAGE_SIDE = 512, 2048  # pixels of the short side, beyond which nobody looks
PROMPT = "Describe this in one short sentence."


def add_speaker_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which model is asked, and how."""
    parser.add_argument(
        "--checkpoint",
        "--run",
        metavar="PATH_OR_ID",
        help="the model: the folder of a run whose system speaks, or an image-text-to-text model (SmolVLM, Idefics 3, "
        "LLaVA; its id on the Hub, or a folder made by save_pretrained)",
    )
    parser.add_argument("--device", default="auto", help="such as cuda:0 (default: the first GPU, or the CPU)")
    parser.add_argument(
        "--max-frames",
        type=int,
        metavar="N",
        help=f"of a published model: the most that it sees of a video, one a second (default {MAX_FRAMES}, or as "
        "many as it can read); a run sees what its recipe says",
    )


def open_speaker(args: argparse.Namespace) -> Speaker:
    """Load the model that the arguments of `add_speaker_arguments` name.

    Raises:
        ValueError: there is no such model, or it does not speak.
    """
    from tools.systems import system_of
    from tools.trained import open_run

    if args.max_frames is not None and args.max_frames < 1:
        raise ValueError(f"--max-frames is {args.max_frames}; give at least 1")
    path = Path(args.checkpoint)
    if (path / "config.json").is_file() or not (path.is_dir() or args.checkpoint.startswith((".", "/", "~"))):
        if args.overrides:
            raise ValueError(f"{args.overrides[0]} has no effect: {args.checkpoint} has no recipe")
        return ImageTextSpeaker(args.checkpoint, args.device, args.max_frames)
    if args.max_frames is not None:
        raise ValueError("--max-frames is of published models; a run sees the frames that its recipe's view says")
    device = [] if args.device == "auto" else [f"--train.device={args.device}"]
    recipe, objective, step = open_run(path, [*args.overrides, *device])
    return system_of(recipe).speaker(recipe, objective, f"run {path}, step {step}")


class ImageTextSpeaker:
    """A published model: frames go in as images, one a second; see `evaluation.speaker.Speaker`."""

    def __init__(self, checkpoint: str, device: str, max_frames: int | None = None) -> None:
        """Load it.

        Args:
            checkpoint: an id on the Hub, or a folder.
            device: such as "cuda:0", or "auto".
            max_frames: of a video; None takes 64, or as many as the model can read with words beside them.

        Raises:
            ValueError: it cannot be loaded, or reads fewer frames.
        """
        import torch

        from model.image_text import ImageTextModel
        from model.pretrained import choose_device
        from pipeline.accelerator import accelerator_of

        place = choose_device(device)
        self._dtype: torch.dtype = accelerator_of(place).half or torch.float32
        self._model: ImageTextModel = ImageTextModel.load(checkpoint, device=place, dtype=self._dtype)
        self.name, self.prompt = checkpoint, PROMPT
        most = self._model.most_frames(WORDS)
        if max_frames is not None and max_frames > most:
            raise ValueError(
                f"--max-frames is {max_frames}, and {checkpoint} reads {most} with {WORDS} tokens of words"
            )
        count = max_frames or min(most, MAX_FRAMES)
        self._video = ViewSpec(
            sampling="fps", fps=1.0, max_frames=count, geometry="whole", short_side=VIDEO_SIDE, size=VIDEO_SIDE
        )

    @cached_property
    def digest(self) -> str:
        """Of all weights, sha256."""
        from model.pretrained import weights_sha256

        return weights_sha256(self._model.model)

    def read(self, path: Path) -> Pictures:
        """A frame a second of a video, spread evenly where it is longer; or an image.

        Raises:
            ValueError: the file cannot be read.
        """
        from dataclasses import replace

        from tools.systems.asking import pictures_of

        moving = path.suffix.lower() in VIDEO_SUFFIXES
        view = self._video if moving else replace(self._video, short_side=IMAGE_SIDE)
        return pictures_of(path, view, QUALITY, "pyav")

    def write(self, pictures: Pictures, messages: Sequence[Message], max_new_tokens: int) -> Iterator[str]:
        """All at once."""
        yield self._model.write(_images(pictures), pictures.moving, messages, max_new_tokens)

    def weigh(
        self, pictures: Pictures, messages: Sequence[Message], begun: str, options: Sequence[str]
    ) -> list[Likelihood]:
        """As `model.image_text` has it."""
        from evaluation.speaker import Likelihood

        found = self._model.weigh(_images(pictures), pictures.moving, messages, begun, options)
        return [Likelihood(log, count) for log, count in found]

    def facts(self) -> Mapping[str, Any]:
        """What it is shown, and by which template it is asked."""
        return {
            "checkpoint": self.name,
            "model": self._model.model.config.model_type,
            "frames": self._video.to_json() | {"jpeg_quality": QUALITY},
            "shown": "frames of videos as whole images, images as its own processor cuts them, all before the text",
            "chat_template": self._model.template,
            "precision": str(self._dtype).removeprefix("torch."),
        }


def _images(pictures: Pictures) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(frame) for frame in pictures.frames]
