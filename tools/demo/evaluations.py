"""What the demo measures its student by, each beside the same student with fresh weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash
from torch import Tensor, nn

from evaluation.knn import KNNConfig, knn
from evaluation.linear import ProbeConfig
from evaluation.probe import probe
from evaluation.result import Result, Split
from evaluation.retrieval import CAPTIONS, retrieval
from evaluation.retrieval_head import RetrievalConfig
from pipeline.world import World
from shards.dataset import ShardDataset
from shards.progress import Progress, untold
from tools.demo.text_encoder import make_text_encoder
from tools.encoders import load_encoder
from tools.evaluate.common import BATCH_SIZE, Bench
from tools.evaluate.sets import add_captions

Data = Mapping[str, Split]
NEIGHBOURS = 20
HEAD = RetrievalConfig(steps=400, batch_size=128, hidden=128)


class Remembered(nn.Module):
    """A frozen network that keeps what it has given: every evaluation shows it the same clips in the same batches."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._given: dict[bytes, Tensor] = {}

    def forward(self, pixels: Tensor) -> Tensor:
        """Give what the network gives of a batch."""
        key = xxhash.xxh3_128_digest(pixels.contiguous().numpy().data)
        if key not in self._given:
            self._given[key] = self.network(pixels)
        return self._given[key]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """An evaluation as the demo's report shows it.

    Attributes:
        title: of its section.
        short: of its line in the terminal.
        about: what it is, in words.
        metrics: those that are shown; the first one is what counts.
        fields: what it reads of a sample.
        evaluate: the evaluator, with its configuration.
    """

    title: str
    short: str
    about: str
    metrics: Sequence[str]
    fields: Sequence[str]
    evaluate: Callable[[Any, Data], Result]

    def record(self, results: Mapping[str, Result]) -> dict[str, Any]:
        """What report.json says of it: all but what each sample was taken for."""
        plain = {which: {k: v for k, v in one.to_json().items() if k != "rows"} for which, one in results.items()}
        about = {"title": self.title, "short": self.short, "about": self.about}
        return {**about, "metric": self.metrics[0], "metrics": list(self.metrics), "results": plain}


def measures(config: ProbeConfig, num_train: int) -> dict[str, Measure]:
    """The demo's evaluations by name; `config` is of the probe, and there are so many training clips."""
    alone = World()
    voters = min(NEIGHBOURS, num_train)
    return {
        "probe": Measure(
            title="Linear probe, top-1",
            short="probe, top-1",
            about="A linear classifier on the frozen student's mean-pooled tokens, trained on the labels of the "
            "training clips and scored on the held-out clips.",
            metrics=("top1",),
            fields=("clip", "label"),
            evaluate=lambda encoder, data: probe(encoder, data, config, alone),
        ),
        "knn": Measure(
            title="Nearest neighbours, top-1",
            short="k-NN, top-1",
            about=f"Nothing is trained: the {voters} training clips whose mean-pooled tokens are nearest, by cosine, "
            "vote on a held-out clip.",
            metrics=("top1",),
            fields=("clip", "label"),
            evaluate=lambda encoder, data: knn(encoder, data, KNNConfig(ks=(voters,)), alone),
        ),
        "retrieval": Measure(
            title="Retrieval, R@1",
            short="retrieval, R@1",
            about="Finding a held-out clip by its caption, such as “Moving red discs up”, among all of them, and back. "
            "A small head brings the frozen student's features to the captions' embeddings, learned on the training "
            "clips. The captions are embedded by a tiny CLIP with random weights, which tells them apart and knows "
            "nothing else. Where two clips share a caption, one of them counts as wrong.",
            metrics=(
                "t2v_r1",
                "t2v_r5",
                "t2v_r10",
                "t2v_median_rank",
                "v2t_r1",
                "v2t_r5",
                "v2t_r10",
                "v2t_median_rank",
            ),
            fields=("clip", CAPTIONS),
            evaluate=lambda encoder, data: retrieval(encoder, data, HEAD, alone),
        ),
    }


def embed_captions(paths: Mapping[str, Path], folder: Path) -> None:
    """Embed the captions of data sets by a text encoder that is made for them.

    Args:
        paths: of the data sets, by role; `train` gives the words.
        folder: where the text encoder goes.
    """
    train = ShardDataset.open(paths["train"])
    make_text_encoder((train.metadata(number)["text"] for number in range(len(train))), folder)
    add_captions(paths, CAPTIONS, str(folder), "cpu")


def evaluate_student(
    run_dir: Path,
    paths: Mapping[str, Path],
    config: ProbeConfig,
    *,
    seed: int,
    threads: int | None,
    advance: Progress = untold,
) -> dict[str, Any]:
    """Measure a student.

    Args:
        run_dir: its run.
        paths: data sets by role, `train` and `val`, with captions.
        config: of the probe.
        seed: of the weights of the untrained student: that of the run, so that it is what the trained one began as.
        threads: that read clips; None takes one a core.
        advance: called with the number of samples after every batch.

    Returns:
        By evaluation: its title and what it is, the metric that counts and those that are shown, and the results of the
        "trained" and the "untrained" student without what they say of every sample.
    """
    trained = load_encoder(run_dir, device="cpu")
    trained.facts = replace(trained.facts, name=f"the student, step {trained.facts.step}")  # wherever the demo lies
    encoders = {"trained": trained, "untrained": trained.untrained(seed)}
    for encoder in encoders.values():
        encoder.trunk = Remembered(encoder.trunk)
    datasets = {role: ShardDataset.open(path) for role, path in paths.items()}
    found = {}
    for name, measure in measures(config, len(datasets["train"])).items():
        results = {}
        for which, encoder in encoders.items():
            bench = Bench(encoder, datasets, World(), BATCH_SIZE, threads, "")
            with bench.splits(measure.fields, advance=advance) as data:
                results[which] = measure.evaluate(encoder, data)
        found[name] = measure.record(results)
    return found
