"""A foveated VLM: one token a frame, read from DINOv2 by queries that the language model writes; trained on words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor, nn

from evaluation.vlm import Scored, VLMConfig, measure_vlm, wanted_tokens
from model.foveated import MODES, FoveatedConfig, FoveatedVLM, Mode, SeenVideos, load_foveated
from model.language import vocabulary_of
from model.parts import ParameterGroup
from tools.systems.base import Evaluation, Feed
from tools.systems.chats import ChatRecipe, ChatSystem

if TYPE_CHECKING:
    from evaluation.speaker import Speaker
    from shards.dataset import ShardDataset
    from tools.pages.html import Html

HIGHEST_RATE = 1e-3  # of the connector: above it, the public runs diverged
LOWEST_SPREAD, HIGHEST_SPREAD = 0.8, 1.2  # of q_static
LOWEST_DIFFERENCE, HIGHEST_NORM, SAME = 0.5, 10.0, 1e-3


@dataclass(frozen=True, kw_only=True)
class FoveatedObjectiveConfig:
    """What is trained on what. The rate of all that joins the two models is `optim.lr`.

    Attributes:
        scored: "text" trains on all words (stage 1), "answer" on what the assistant says (stages 2 and 3).
        mode: "coarse_fine", or "coarse_only" as an ablation: one learned query looks at every frame.
        train_dinov2: whether DINOv2 is trained.
        train_llm: whether the language model is trained.
        dinov2_lr: peak rate of DINOv2.
        llm_lr: peak rate of the language model.
    """

    scored: Scored = "answer"
    mode: Mode = "coarse_fine"
    train_dinov2: bool = True
    train_llm: bool = True
    dinov2_lr: float = 1e-5
    llm_lr: float = 1e-5

    def __post_init__(self) -> None:
        if self.scored not in get_args(Scored):
            raise ValueError(f"objective.scored is {self.scored!r}; choose 'text' or 'answer'")
        if self.mode not in ("coarse_fine", "coarse_only"):
            raise ValueError(f"objective.mode is {self.mode!r}; choose 'coarse_fine' or 'coarse_only'")


class FoveatedObjective(nn.Module):
    """The cost of the words of each sample; a sample weighs as many as it has."""

    uses_all = False  # text leaves alone all that sees

    def __init__(self, model: FoveatedVLM, config: FoveatedObjectiveConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        names = [name for name, _ in self.named_parameters()]
        unused = ["model.dinov2.embeddings.mask_token"]
        unused += ["model.q_init", "model.llm_to_query"] if config.mode == "coarse_only" else []
        unused = [name for name in unused if any(other.startswith(name) for other in names)]
        kept = [] if config.train_dinov2 else ["model.dinov2"]
        self.frozen = (*unused, *kept, *([] if config.train_llm else ["model.llm"]))

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        """Rates of the two models; the rest goes by that of the run."""
        return {
            "dinov2": ParameterGroup(prefixes=("model.dinov2",), lr=self.config.dinov2_lr),
            "llm": ParameterGroup(prefixes=("model.llm",), lr=self.config.llm_lr),
        }

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score a batch, sample by sample.

        Args:
            batch: `tokens`, `tokens_length` and `answer`, and, unless it is text alone, `frames` (u8 `[B, T, 3, H, W]`)
                and `frames_length`.

        Returns:
            f32 `[B]` each: `loss`, the mean cost of the sample's scored words, and `weight`, how many they are.
        """
        seen = self._see(batch)
        return _mean_costs(self._costs(batch, seen, self.config.mode), self._scored(batch, seen), "loss")

    @torch.no_grad()
    def diagnose(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The spread of the learned queries, and of a batch with frames the costs of both looks and where they go."""
        seen, model = self._see(batch), self.model
        scored = self._scored(batch, seen)
        found = {"weight": scored.sum(dim=1).float()}
        asked = model.query_proj(torch.stack([model.q_static, model.q_init]).float()).float()
        numbers = {"query_std": model.q_static.std(), "query_difference": (asked[0] - asked[1]).abs().mean()}
        found |= {name: value.expand(len(scored)) for name, value in numbers.items()}
        if seen is None or self.config.mode == "coarse_only":
            return found
        looks: dict[str, Mode] = {"coarse_loss": "coarse_only", "fine_loss": "coarse_fine"}
        for name, mode in looks.items():
            found |= _mean_costs(self._costs(batch, seen, mode), scored, name)
        weights = model.attention(seen.pictures, model.queries(seen, "coarse_fine"))  # [layers, N, heads, P]
        entropy = -(weights * weights.clamp(min=1e-12).log()).sum(dim=-1).mean(dim=(0, 2)) / math.log(weights.shape[-1])
        sums = seen.padded(entropy[:, None])[..., 0].sum(dim=1)
        return found | {"attention_entropy": sums / seen.lengths.clamp(min=1)}

    def review(self, row: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
        """How the coarse cost stands to the fine one, and what is wrong with that or the queries."""
        numbers: dict[str, float] = {}
        if row.get("fine_loss"):
            numbers["coarse_to_fine"] = row["coarse_loss"] / row["fine_loss"]
        return numbers, dict(_wrong({**row, **numbers}))

    def _see(self, batch: Mapping[str, Tensor]) -> SeenVideos | None:
        return self.model.see(batch["frames"], batch["frames_length"]) if "frames" in batch else None

    def _scored(self, batch: Mapping[str, Tensor], seen: SeenVideos | None) -> Tensor:
        wanted = wanted_tokens(batch, self.config.scored)
        return self.model.scored(seen, batch["tokens"], batch["tokens_length"], wanted)

    def _costs(self, batch: Mapping[str, Tensor], seen: SeenVideos | None, mode: Mode) -> Tensor:
        shown = None if seen is None else self.model.show(seen, mode)
        return self.model.costs(seen, shown, batch["tokens"], self._scored(batch, seen))


def _mean_costs(costs: Tensor, scored: Tensor, name: str) -> dict[str, Tensor]:
    counts = scored.sum(dim=1).float()
    return {name: costs.sum(dim=1) / counts.clamp(min=1), "weight": counts}


def _wrong(row: Mapping[str, float]) -> list[tuple[str, str]]:
    """What is wrong with a row of metrics: a name and a line each."""
    found = []
    if abs(row.get("coarse_to_fine", math.nan) - 1) < SAME:
        line = f"the coarse cost is {row['coarse_to_fine']:.4f} times the fine one"
        found.append(("ratio", f"{line}: what the queries ask makes no difference"))
    if not LOWEST_SPREAD <= row.get("query_std", 1.0) <= HIGHEST_SPREAD:
        line = (
            f"q_static has a standard deviation of {row['query_std']:.3f}, outside [{LOWEST_SPREAD}, {HIGHEST_SPREAD}]"
        )
        found.append(("spread", f"{line}: queries that small or large look everywhere, or at one patch"))
    if row.get("query_difference", 1.0) < LOWEST_DIFFERENCE:
        line = (
            f"the two learned queries differ by {row['query_difference']:.3f} behind W_q, less than {LOWEST_DIFFERENCE}"
        )
        found.append(("difference", f"{line}: different queries will see the same"))
    if row.get("grad_norm", 0.0) > HIGHEST_NORM:
        line = f"the gradient's norm is {row['grad_norm']:.1f}, above {HIGHEST_NORM:.0f}"
        found.append(("norm", f"{line}: lower optim.lr, or look at the data"))
    return found


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How a run is scored.

    Attributes:
        modes: how the frames are looked at, in turn.
    """

    modes: tuple[Mode, ...] = MODES

    def __post_init__(self) -> None:
        VLMConfig(modes=self.modes)


@dataclass(frozen=True, kw_only=True)
class FoveatedRecipe(ChatRecipe):
    """A resolved recipe of the foveated VLM.

    Attributes:
        model: the two models, and what joins them.
        objective: what is trained on what.
        evaluate: how it is scored.
    """

    system: str = "fvlm"
    model: FoveatedConfig = field(default_factory=FoveatedConfig)
    objective: FoveatedObjectiveConfig = field(default_factory=FoveatedObjectiveConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        if self.optim.lr > HIGHEST_RATE:
            raise ValueError(
                f"optim.lr is {self.optim.lr}, the rate of what joins the two models; above {HIGHEST_RATE} they fall "
                "apart: give 1e-4 to 1e-3"
            )


def _show_looks(recipe: FoveatedRecipe, model: nn.Module, datasets: Mapping[str, ShardDataset]) -> Iterator[Html]:
    from tools.systems.fvlm_looks import show_looks

    yield from show_looks(recipe, model, datasets)


class FoveatedSystem(ChatSystem[FoveatedRecipe]):
    """Videos, images and text in chats."""

    name, title = "fvlm", "Foveated VLM"
    loss = "the cross entropy of words"
    recipe = FoveatedRecipe
    evaluators: Mapping[str, Evaluation] = {
        "vlm": Evaluation(
            measure=measure_vlm,
            config=lambda recipe: VLMConfig(modes=recipe.evaluate.modes, scored=recipe.objective.scored),
            model=lambda objective: objective.get_submodule("model"),
            roles=("val",),
            exhibits=_show_looks,
        )
    }

    def make_objective(self, recipe: FoveatedRecipe) -> FoveatedObjective:
        """Both models, from their folders or the Hub, and fresh weights between them."""
        return FoveatedObjective(load_foveated(recipe.model), recipe.objective)

    def feed(self, recipe: FoveatedRecipe, dataset: ShardDataset, source: str = "") -> Feed:
        """Frames, where a set has any, tokens, and which of them are answers.

        Raises:
            ValueError: it is no set of chats, has tokens that the language model does not know, or nothing to teach.
        """
        found = super().feed(recipe, dataset, source)
        _refuse_other_words(recipe, dataset)
        if "frames" not in dataset.schema and not recipe.objective.train_llm and (recipe.data.mix or {}).get(source):
            raise ValueError(
                f"{dataset.place} is text alone, which teaches the language model alone, and that is not trained "
                f"(objective.train_llm): leave it out by --data.mix.{source} 0"
            )
        return found

    def describe(self, recipe: FoveatedRecipe, dataset: ShardDataset) -> Mapping[str, str]:
        """Whose tokens the data set holds; where it asks otherwise than the recipe, that is said."""
        lines = dict(super().describe(recipe, dataset))
        if dataset.manifest.provenance["sample"]["template"] != recipe.chat.template:
            lines["tokens"] += f"; captions will be asked for by the recipe's, {recipe.chat.template[:40]!r}"
        return lines

    def speaker(self, recipe: FoveatedRecipe, objective: nn.Module, name: str) -> Speaker:
        """Frame by frame, then word by word."""
        from tools.systems.fvlm_speaker import FoveatedSpeaker

        return FoveatedSpeaker(recipe, objective.get_submodule("model"), name)

    def export(self, recipe: FoveatedRecipe, objective: nn.Module, folder: Path) -> Iterator[str]:
        """`dinov2` and `llm`, the latter with its tokenizer, and what joins them as safetensors and JSON."""
        from model.exported import save_foveated

        model = objective.get_submodule("model")
        assert isinstance(model, FoveatedVLM)
        yield from save_foveated(model, folder, tokenizer=recipe.chat.tokenizer)


def _refuse_other_words(recipe: FoveatedRecipe, dataset: ShardDataset) -> None:
    """Compare a set's tokens, which are those of the recipe's tokenizer, with those that the language model knows."""
    tokenizer = dataset.manifest.provenance["sample"]["tokenizer"]
    known = vocabulary_of(recipe.model.llm)
    if tokenizer["vocab_size"] > known:
        raise ValueError(
            f"{dataset.place} has the tokens of {tokenizer['id']}, {tokenizer['vocab_size']:,} of them, and the "
            f"language model {recipe.model.llm} knows {known:,}: build the set with its own tokenizer (chat.tokenizer)"
        )


SYSTEM = FoveatedSystem()
