"""Every frozen teacher there is, by what its configuration calls its kind of model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model.pretrained import one_line, quiet
from model.teacher import TeacherConfig, VideoMAETeacher, load_videomae_teacher
from model.text_teacher import CLIPTextTeacher, load_clip_text_teacher

AnyTeacher = VideoMAETeacher | CLIPTextTeacher
Load = Callable[[TeacherConfig, str], AnyTeacher]

KINDS: dict[str, tuple[str, Load]] = {  # model_type of config.json -> what the teacher sees, and what loads it
    "videomae": ("clip", load_videomae_teacher),
    "clip": ("text", load_clip_text_teacher),
    "clip_text_model": ("text", load_clip_text_teacher),
}
ALLOWED = (
    "A teacher is a VideoMAE of any size (clips to tokens) or a CLIP (captions to embeddings): give its id on the Hub, "
    "or a folder made by save_pretrained"
)


def teacher_sees(config: TeacherConfig) -> str:
    """What of a sample a teacher sees: "clip" or "text". Its configuration is read, no weights.

    Raises:
        ValueError: there is no such checkpoint, or it is of another kind.
    """
    return KINDS[_kind(config)][0]


def load_teacher(config: TeacherConfig, device: str = "auto") -> AnyTeacher:
    """Load a teacher of the kind that its configuration says.

    Args:
        config: which, and what becomes of its output.
        device: such as "cuda:0"; "auto" takes the first GPU, or the CPU.

    Raises:
        ValueError: there is no such checkpoint, it is of another kind, or its weights do not fit.
    """
    return KINDS[_kind(config)][1](config, device)


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
