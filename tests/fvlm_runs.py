"""Sets of chats, tiny models and recipes for runs of the foveated VLM, made once a test process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.chats import SIDE, VIEW, build_chats, chat_config, make_chat_sets, write_chats
from tests.tiny_vlm import tiny_dino, tiny_llm
from tools.recipes import RECIPES

WORDS = 260  # of the tokenizer of bytes, which has 259


@dataclass(frozen=True)
class Workshop:
    """A folder with the sets `video`, `text` and `held_out`, a tokenizer and the two models.

    Attributes:
        folder: of all of it.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path, *, num_videos: int = 24, num_texts: int = 12) -> Workshop:
        make_chat_sets(folder, num_videos=num_videos, num_texts=num_texts)
        held_out = write_chats(folder / "raw_held_out", [1, 3, 9, 2, 8, 5], seed=9)
        build_chats(held_out, folder / "held_out", chat_config(folder / "tokenizer"), view=VIEW)
        dino: Any = tiny_dino(image_size=SIDE)
        llm: Any = tiny_llm(vocab_size=WORDS, eos_token_id=258, bos_token_id=257, pad_token_id=256)
        dino.save_pretrained(folder / "dinov2")
        llm.save_pretrained(folder / "llm")
        return cls(folder)

    def recipe(self, stage: int, **sections: dict[str, Any]) -> Path:
        """The recipe of a stage as it is shipped, with these sets, models and sizes."""
        content = yaml.safe_load((RECIPES / f"fvlm_stage{stage}.yaml").read_text())
        small: dict[str, dict[str, Any]] = {
            "view": {"size": SIDE},
            "chat": {"tokenizer": str(self.folder / "tokenizer")},
            "model": {
                "dinov2": str(self.folder / "dinov2"),
                "llm": str(self.folder / "llm"),
                "query_dim": 24,
                "visual_scale": "auto",
            },
            "data": {"length_budget": {"frames": 32, "tokens": 2048}, "threads": 1},
            "train": {"device": "cpu", "precision": "fp32", "steps": 8, "epochs": None, "log_every": 1},
        }
        for name, values in [*small.items(), *sections.items()]:
            content[name] = {**content.get(name, {}), **values}
        number = len(list(self.folder.glob("recipe*.yaml")))
        path = self.folder / f"recipe{number}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def sources(self) -> list[str]:
        """The arguments that name both sets of a mix."""
        return [word for name in ("video", "text") for word in ("--data", f"{name}={self.folder / name}")]
