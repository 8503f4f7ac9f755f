"""Numbers that others have published, to stand beside ours: by protocols of their own, never measured here.

Sources: V-JEPA (arXiv 2404.08471), V-JEPA 2 (2506.09985), SALT (2509.24317), VideoMAE's model zoo (MCG-NJU/VideoMAE),
2410.24213 for UCF101, CLIP4Clip (2104.08860).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Task = Literal["ssv2", "ucf101", "msrvtt"]

_VJEPA = "attentive probe, 1 block, 16 frames, 2 clips x 3 crops, frozen"
_VJEPA_2 = "attentive probe, 4 blocks, 2 clips x 3 crops, frozen; best of 20 heads on the validation set"
_SALT = "attentive probe, frozen; as a secondary source reports it"


@dataclass(frozen=True, kw_only=True)
class PublishedNumber:
    """One row.

    Attributes:
        task: what was measured on.
        model: as its authors call it.
        metrics: by the names that results use; shares as fractions.
        protocol: how, in words.
        source: who says so.
    """

    task: Task
    model: str
    metrics: Mapping[str, float]
    protocol: str
    source: str


def _ssv2(model: str, top1: float, protocol: str, source: str) -> PublishedNumber:
    return PublishedNumber(task="ssv2", model=model, metrics={"top1": top1}, protocol=protocol, source=source)


PUBLISHED = (
    _ssv2("VideoMAE ViT-H", 0.662, _VJEPA, "arXiv 2404.08471"),
    _ssv2("V-JEPA ViT-L", 0.695, _VJEPA, "arXiv 2404.08471"),
    _ssv2("V-JEPA ViT-H", 0.714, _VJEPA, "arXiv 2404.08471"),
    _ssv2("V-JEPA ViT-H 384", 0.722, _VJEPA, "arXiv 2404.08471"),
    _ssv2("V-JEPA 2 ViT-L", 0.737, _VJEPA_2, "arXiv 2506.09985"),
    _ssv2("V-JEPA 2 ViT-g 384", 0.773, _VJEPA_2, "arXiv 2506.09985"),
    _ssv2("SALT ViT-L", 0.749, _SALT, "arXiv 2509.24317"),
    _ssv2("SALT ViT-H", 0.754, _SALT, "arXiv 2509.24317"),
    _ssv2("VideoMAE ViT-S, fine-tuned", 0.668, "fine-tuned whole, 16 frames, 2 x 3", "MCG-NJU/VideoMAE, model zoo"),
    _ssv2("VideoMAE ViT-B, fine-tuned", 0.708, "fine-tuned whole, 16 frames, 2 x 3", "MCG-NJU/VideoMAE, model zoo"),
    PublishedNumber(
        task="ucf101",
        model="VideoMAE ViT-B, pretrained on UCF101",
        metrics={"top1": 0.480},
        protocol="linear probe, frozen, split 1",
        source="arXiv 2410.24213",
    ),
    PublishedNumber(
        task="ucf101",
        model="ViT-B, untrained",
        metrics={"top1": 0.089},
        protocol="linear probe, frozen, split 1",
        source="arXiv 2410.24213",
    ),
    PublishedNumber(
        task="msrvtt",
        model="CLIP4Clip meanP",
        metrics={"t2v_r1": 0.431, "t2v_r5": 0.704, "t2v_r10": 0.808},
        protocol="1k-A, trained whole on 9k, text and video",
        source="arXiv 2104.08860",
    ),
)


def published_of(task: str) -> list[PublishedNumber]:
    """The rows of a task."""
    return [row for row in PUBLISHED if row.task == task]
