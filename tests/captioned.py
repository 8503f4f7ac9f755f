"""Small downloads of MSR-VTT and MSVD, and the tiny models that retrieval on them needs, as transformers saves them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import VideoMAEModel

from tests.clip_text import save_text_encoder
from tests.official import COLOURS, MOTIONS, Scene, write_msrvtt, write_msvd
from tests.test_model_teacher import make_config


@dataclass(frozen=True)
class Downloads:
    """Folders.

    Attributes:
        msrvtt: with its videos in a zip.
        msvd: with its videos in a zip.
        msvd_unpacked: the same with files.
        clip: a CLIP text encoder that knows the words of the captions.
        videomae: a random VideoMAE.
    """

    msrvtt: Path
    msvd: Path
    msvd_unpacked: Path
    clip: Path
    videomae: Path


def make_downloads(root: Path, *, num_train: int, num_test: int, num_frames: int = 8) -> Downloads:
    """Make them: so many videos of MSR-VTT, and three of MSVD's test split."""
    return Downloads(
        msrvtt=write_msrvtt(root / "msrvtt", num_train=num_train, num_test=num_test, num_frames=num_frames),
        msvd=write_msvd(root / "msvd", num_train=3, num_test=3, num_frames=num_frames),
        msvd_unpacked=write_msvd(root / "msvd_unpacked", num_train=3, num_test=3, zipped=False, num_frames=num_frames),
        clip=save_text_encoder(root / "clip", words=caption_words()),
        videomae=save_videomae(root / "videomae"),
    )


def save_videomae(folder: Path, *, seed: int = 7) -> Path:
    """A random VideoMAE, saved as transformers saves it."""
    torch.manual_seed(seed)
    VideoMAEModel(make_config()).save_pretrained(folder)
    return folder


def caption_words() -> list[str]:
    """All words that captions of made scenes have."""
    captions = [text for colour in COLOURS for motion in MOTIONS for text in Scene(colour, motion).captions(5)]
    return sorted({word for text in captions for word in text.split()})
