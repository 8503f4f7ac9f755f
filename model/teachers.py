"""Every frozen teacher there is, by what its configuration calls its kind of model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model.pretrained import one_line, quiet
from model.sam3_teacher import Sam3Teacher, Sam3TeacherConfig, load_sam3_teacher
from model.teacher import TeacherConfig, VideoMAETeacher, load_videomae_teacher
from model.text_teacher import CLIPTextTeacher, load_clip_text_teacher

AnyTeacher = VideoMAETeacher | CLIPTextTeacher | Sam3Teacher
Load = Callable[[TeacherConfig, str, int | None], AnyTeacher]


def _load_sam3(config: TeacherConfig, device: str, side: int | None) -> Sam3Teacher:
    if config.projection_dim is not None:
        raise ValueError("the features of a SAM3 are not projected: leave the projection out")
    size = {} if side is None else {"image_size": side}
    return load_sam3_teacher(Sam3TeacherConfig(id=config.id, dtype=config.dtype, **size), device)


KINDS: dict[str, tuple[str, Load]] = {  # model_type of config.json -> what the teacher sees, and what loads it
    "videomae": ("clip", lambda config, device, _: load_videomae_teacher(config, device)),
    "clip": ("text", lambda config, device, _: load_clip_text_teacher(config, device)),
    "clip_text_model": ("text", lambda config, device, _: load_clip_text_teacher(config, device)),
    "sam3": ("frames", _load_sam3),
    "sam3_video": ("frames", _load_sam3),
}
ALLOWED = (
    "A teacher is a VideoMAE of any size (clips to tokens), a CLIP (captions to embeddings) or a SAM3 (frames to "
    "features): give its id on the Hub, or a folder made by save_pretrained"
)


def teacher_sees(config: TeacherConfig) -> str:
    """What of a sample a teacher sees: "clip", "text" or "frames". Its configuration is read, no weights.

    Raises:
        ValueError: there is no such checkpoint, or it is of another kind.
    """
    return KINDS[_kind(config)][0]


def load_teacher(config: TeacherConfig, device: str = "auto", side: int | None = None) -> AnyTeacher:
    """Load a teacher of the kind that its configuration says.

    Args:
        config: which, and what becomes of its output.
        device: such as "cuda:0"; "auto" takes the first GPU, or the CPU.
        side: of square frames in pixels, for a teacher that takes any; None is its usual one.

    Raises:
        ValueError: there is no such checkpoint, it is of another kind, or its weights do not fit.
    """
    return KINDS[_kind(config)][1](config, device, side)


def _kind(config: TeacherConfig) -> str:
    from transformers import PretrainedConfig

    with quiet(), one_line(config.id, ALLOWED):
        found: dict[str, Any] = PretrainedConfig.get_config_dict(config.id)[0]
        if not found:
            raise FileNotFoundError("there is no config.json.")
    kind = found.get("model_type")
    if kind not in KINDS:
        raise ValueError(
            f"the teacher {config.id!r} is of the kind {kind!r}, which is not one of {', '.join(KINDS)}. {ALLOWED}"
        )
    return str(kind)
