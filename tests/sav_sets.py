"""SA-V for tests: videos at 24 frames a second with masks of every fourth, in the official layouts; and teachers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import Sam3Config, Sam3Model

from model.sam3_teacher import Sam3Teacher, Sam3TeacherConfig, load_sam3_teacher
from shards import rle
from shards.builder import BuildConfig, SavKind, Teacher, build_dataset, load_sav
from shards.builder.samples.sav import SAV_VIEW
from shards.dataset import ShardDataset
from tests.videos import write_video

RATE, STEP = 24, 4  # frames a second, and from one annotated frame to the next
SIDE = 112  # pixels that the tiny teachers see: their level 3 is 4 x 4 cells
CHANNELS = 32
Masks = NDArray[np.bool_]  # [frames, objects, H, W]


@dataclass(frozen=True)
class Scene:
    """Frames u8 [T, H, W, 3], and the masks of all of them, bool [T, objects, H, W]."""

    frames: NDArray[np.uint8]
    masks: Masks

    @property
    def annotated(self) -> Masks:
        """The masks of every fourth frame."""
        return self.masks[::STEP]


def make_scene(
    num_frames: int = 49, num_objects: int = 2, height: int = 60, width: int = 80, seed: int = 0, *, absent: bool = True
) -> Scene:
    """Rectangles that move over a grey ground, each of its own colour; if `absent`, the last one is away at first."""
    random = np.random.default_rng(seed)
    frames = np.full((num_frames, height, width, 3), 90, np.uint8)
    masks = np.zeros((num_frames, num_objects, height, width), np.bool_)
    for number in range(num_objects):
        high, wide = (int(random.integers(side // 5, side // 2)) for side in (height, width))
        top, left = int(random.integers(0, height - high)), int(random.integers(0, width - wide))
        down, right = (int(step) for step in random.integers(-2, 3, 2))
        colour = random.integers(0, 256, 3)
        for frame in range(num_frames):
            if absent and number == num_objects - 1 and frame < num_frames // 3:
                continue
            y, x = (top + down * frame) % (height - high), (left + right * frame) % (width - wide)
            frames[frame, y : y + high, x : x + wide] = colour
            masks[frame, :, y : y + high, x : x + wide] = False  # what is behind it is hidden
            masks[frame, number, y : y + high, x : x + wide] = True
    return Scene(frames, masks)


def annotation(video_id: str, masks: Masks, num_frames: int, *, automatic: bool = False) -> dict[str, Any]:
    """What SA-V says of a video: masks bool [annotated, objects, H, W] and facts, numbers as floats, as it has them."""
    shown = masks.any(axis=(2, 3))
    first = shown.argmax(axis=0).tolist()
    height, width = masks.shape[2:]
    number = int if automatic else float
    about = {
        "video_id": video_id,
        "video_duration": num_frames / RATE,
        "video_frame_count": float(num_frames),
        "video_height": float(height),
        "video_width": float(width),
        "video_resolution": float(height * width),
        "video_environment": "Indoor",
        "video_split": "train",
        "masklet": [[rle.encode(mask) for mask in objects] for objects in masks],
        "masklet_id": list(range(masks.shape[1])),
        "masklet_first_appeared_frame": [number(frame) for frame in first],
        "masklet_frame_count": [float(count) for count in shown.sum(axis=0)],
        "masklet_type": ["auto" if automatic else "manual"] * masks.shape[1],
        "masklet_num": masks.shape[1],
    }
    return about | ({"masklet_stability_score": [[0.9]] * masks.shape[1]} if automatic else {})


def write_sample(folder: Path, video_id: str, scene: Scene, *, auto: Scene | None = None) -> Path:
    """A video with its `_manual.json`, and an `_auto.json` with the masks of another scene of its size."""
    video = write_video(folder / f"{video_id}.mp4", scene.frames, codec="libx264", rate=RATE)
    for name, shown in (("manual", scene), ("auto", auto)):
        if shown is not None:
            about = annotation(video_id, shown.annotated, len(shown.frames), automatic=name == "auto")
            (folder / f"{video_id}_{name}.json").write_text(json.dumps(about))
    return video


def write_train(
    root: Path, lengths: Sequence[int] = (49, 57, 45), *, first: int = 0, num_objects: int = 2, auto: bool = False
) -> dict[str, Scene]:
    """`root/sav_train/sav_NNN/{id}.mp4`, one video for each length in frames; returns the scenes by id."""
    scenes = {}
    for number, length in enumerate(lengths, first):
        video_id, scene = f"sav_{number:06}", make_scene(length, num_objects, seed=number)
        extra = make_scene(length, 3, seed=1000 + number) if auto else None
        write_sample(root / "sav_train" / f"sav_{number // 2:03}", video_id, scene, auto=extra)
        scenes[video_id] = scene
    return scenes


def write_frames(root: Path, scenes: Mapping[str, Scene], *, split: str = "val", mode: str = "P") -> Path:
    """`sav_val` as Meta has it: JPEGs of all frames, PNGs of every fourth in a folder for each object, the list."""
    folder = root / f"sav_{split}"
    for video_id, scene in scenes.items():
        pictures = folder / "JPEGImages_24fps" / video_id
        pictures.mkdir(parents=True)
        for number, frame in enumerate(scene.frames):
            Image.fromarray(frame).save(pictures / f"{number:05}.jpg", quality=95)
        for number in range(scene.masks.shape[1]):
            masks = folder / "Annotations_6fps" / video_id / f"{number:03}"
            masks.mkdir(parents=True)
            for frame in range(0, len(scene.frames), STEP):
                save_mask(masks / f"{frame:05}.png", scene.masks[frame, number], value=number + 1, mode=mode)
    (folder / f"sav_{split}.txt").write_text("".join(f"{video_id}\n" for video_id in scenes))
    return folder


def save_mask(path: Path, mask: NDArray[np.bool_], *, value: int = 1, mode: str = "P") -> None:
    """A palette ("P") or grey ("L") PNG, or one bit a pixel ("1"); the object is `value`, the rest 0."""
    image = Image.fromarray(mask.astype(np.uint8) * value)
    if mode == "P":
        image.putpalette([0, 0, 0, 236, 95, 103, 60, 180, 75] + [90] * 60)
    elif mode == "1":
        image = Image.fromarray(mask)
    image.save(path)


def tiny_config(side: int = SIDE, channels: int = CHANNELS) -> Sam3Config:
    """A SAM3 of 260 thousand weights: pictures of `side` px, a multiple of 14."""
    attention: dict[str, int] = {"hidden_size": channels, "num_attention_heads": 2}
    layer = {**attention, "num_layers": 1, "intermediate_size": 64}
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "pretrain_image_size": 56,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1],
        "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0},
    }
    text = {
        "model_type": "clip_text_model",
        "vocab_size": 99,
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "eos_token_id": 98,
        "bos_token_id": 97,
        "pad_token_id": 98,
    }
    return Sam3Config(
        vision_config={"fpn_hidden_size": channels, "backbone_config": backbone},
        text_config=text,
        geometry_encoder_config=layer,
        detr_encoder_config=layer,
        mask_decoder_config=attention,
        detr_decoder_config={**attention, "num_layers": 2, "num_queries": 10, "intermediate_size": 64},
    )


def write_teacher(folder: Path, *, seed: int = 0, side: int = SIDE, channels: int = CHANNELS) -> Path:
    """A tiny SAM3 with random weights, saved by transformers; its level 3 is [channels, side / 28, side / 28]."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Sam3Model(tiny_config(side, channels))
    model.save_pretrained(folder)
    return folder


VIEW = replace(SAV_VIEW, size=SIDE)
CONFIG = BuildConfig(samples_per_shard=2, workers=2, teacher_batch=4, time_limit_seconds=None)


def load_teacher(folder: Path, device: str = "cpu", **changes: Any) -> Sam3Teacher:
    """What `write_teacher` wrote, as a build has it."""
    return load_sam3_teacher(Sam3TeacherConfig(id=str(folder), **{"image_size": SIDE, **changes}), device)


def build_sav(
    root: Path, out: Path, teacher: Path | Teacher | None, *, split: str = "train", **changes: Any
) -> ShardDataset:
    """The data set of one split of `root`, with a teacher's features or without; in this process unless said."""
    source = load_sav(root, split, changes.pop("masklets", "manual"))
    kind = changes.pop("kind", SavKind(view=VIEW))
    made = load_teacher(teacher) if isinstance(teacher, Path) else teacher
    build_dataset(source, out, **{"kind": kind, "config": CONFIG, "teacher": made, "split": split, **changes})
    return ShardDataset.open(out)
