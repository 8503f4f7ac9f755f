"""Look into the samples of a data set: whether what is stored is what it says, and not only as it was written.

Every JPEG is decoded, frames and tokens are counted and compared with the JSON, and token ids with the vocabulary.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.content_masks import mask_problems
from shards.dataset import ShardDataset
from shards.format.errors import ShardError
from shards.payload import StoredValue
from shards.progress import Progress, untold
from shards.threads import thread_pool

KINDS = ("chat", "frames", "sav")
MAX_PROBLEMS_PER_SHARD = 20


@dataclass(frozen=True)
class ContentReport:
    """What `check_content` looked at and found.

    Attributes:
        num_samples: samples looked into.
        num_frames: JPEGs decoded.
        num_tokens: token ids compared with the vocabulary.
        problems: one line each.
    """

    num_samples: int
    num_frames: int
    num_tokens: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Expected:
    """What the manifest says of all samples.

    Attributes:
        side: pixels of a square frame; None where frames differ.
        vocab_size: token ids are below it.
        tokenizer: its digest.
    """

    side: int | None
    vocab_size: int
    tokenizer: str


def check_content(dataset: ShardDataset, *, threads: int = 4, progress: Progress = untold) -> ContentReport:
    """Look into every sample.

    Args:
        dataset: of one of KINDS.
        threads: shards looked into at the same time.
        progress: called with (shards done, of which have problems) since its last call.

    Raises:
        ShardError: its samples are of another kind.
    """
    expected = _expected(dataset)
    found: dict[int, tuple[list[str], int, int]] = {}
    with thread_pool(threads) as pool:
        futures = {pool.submit(_look_into, dataset, shard, expected): shard for shard in range(dataset.num_shards)}
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            progress(1, int(bool(found[futures[future]][0])))
    shards = [found[shard] for shard in sorted(found)]
    problems = tuple(problem for some, _, _ in shards for problem in some)
    return ContentReport(len(dataset), sum(frames for _, frames, _ in shards), sum(n for *_, n in shards), problems)


def _expected(dataset: ShardDataset) -> _Expected:
    provenance = dataset.manifest.provenance
    about = provenance.get("sample")
    kind = about.get("kind", "clip") if isinstance(about, Mapping) else "clip"
    if kind not in KINDS:
        raise ShardError(
            f"{dataset.directory} holds samples of the kind {kind!r}; --content looks into {', '.join(KINDS)}, and "
            "the numbers of other kinds are what they are: every byte of them is compared without it"
        )
    view = provenance.get("view")
    side = view.get("size") if isinstance(view, Mapping) else None
    tokenizer: Mapping[str, Any] = about.get("tokenizer", {}) if isinstance(about, Mapping) else {}
    try:
        size = 0 if kind != "chat" else int(tokenizer["vocab_size"])
        return _Expected(None if side is None else int(side), size, str(tokenizer.get("sha256", "")))
    except (KeyError, TypeError, ValueError):
        raise ShardError(f"{dataset.directory}: its manifest does not say which tokenizer it was built with") from None


def _look_into(dataset: ShardDataset, shard: int, expected: _Expected) -> tuple[list[str], int, int]:
    """Problems, frames and tokens of a shard."""
    problems: list[str] = []
    num_frames = num_tokens = 0
    name = dataset.tar_path(shard).name
    try:
        index = dataset.index(shard)
    except (ShardError, OSError) as error:
        return [str(error)], 0, 0
    first = sum(info.num_samples for info in dataset.manifest.shards[:shard])
    for number in range(first, first + len(index)):
        try:
            sample: Mapping[str, StoredValue] = dataset[number]
            about = dataset.metadata(number) if "json" in dataset.schema else {}
        except (ShardError, OSError) as error:
            problems.append(str(error))
            continue
        frames, tokens = sample.get("frames", []), np.asarray(sample.get("tokens", ()))
        num_frames, num_tokens = num_frames + len(frames), num_tokens + len(tokens)
        checks: Sequence[Callable[..., Iterator[str]]] = (_frame_problems, _token_problems, _mask_problems)
        found = (problem for check in checks for problem in check(sample, about, expected))
        problems += [f"shard {name}, key {dataset.key(number)}: {problem}" for problem in found]
        if len(problems) > MAX_PROBLEMS_PER_SHARD:
            more = f"shard {name}: and more; only the first {MAX_PROBLEMS_PER_SHARD} are listed"
            return [*problems[:MAX_PROBLEMS_PER_SHARD], more], num_frames, num_tokens
    return problems, num_frames, num_tokens


def _frame_problems(sample: Mapping[str, StoredValue], about: Mapping[str, Any], expected: _Expected) -> Iterator[str]:
    """What is wrong with a sample's frames, their number and their times."""
    if "frames" not in sample:
        return
    frames, times = sample["frames"], _times(sample, about)
    said = about.get("num_frames", len(about.get("frame_indices", frames) or ()))
    if not len(frames) == len(times) == said:
        yield f"it has {len(frames)} frames and {len(times)} times, and its JSON says {said}"
    if len(times) and (not np.isfinite(times).all() or (np.diff(times) < 0).any()):
        yield f"its times are not in order: {' '.join(f'{time:g}' for time in times[:8])}"
    assert isinstance(frames, list)
    for number, jpeg in enumerate(frames):
        try:
            with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
                image.load()
                size = image.size
        except Exception as error:  # Pillow raises what it likes on damaged files
            yield f"frame {number} is no readable JPEG: {' '.join(str(error).split())[:100]}"
            continue
        if expected.side is not None and size != (expected.side, expected.side):
            yield f"frame {number} is {size[0]} x {size[1]} px, the view gives {expected.side} x {expected.side}"


def _times(sample: Mapping[str, StoredValue], about: Mapping[str, Any]) -> NDArray[np.float64]:
    """When frames are shown: a field of the sample, or the JSON's `timestamps`; none where these are no numbers."""
    try:
        return np.atleast_1d(np.asarray(sample["times"] if "times" in sample else about["timestamps"], np.float64))
    except (KeyError, TypeError, ValueError):
        return np.empty(0)


def _mask_problems(sample: Mapping[str, StoredValue], about: Mapping[str, Any], expected: _Expected) -> Iterator[str]:
    """What is wrong with a sample's masks and features."""
    if "masks" in sample and "frames" in sample:
        yield from mask_problems(sample, about, expected.side)


def _token_problems(sample: Mapping[str, StoredValue], about: Mapping[str, Any], expected: _Expected) -> Iterator[str]:
    """What is wrong with a sample's tokens, their number, and which of them are an answer."""
    if "tokens" not in sample:
        return
    tokens, answer = np.asarray(sample["tokens"]), np.asarray(sample["answer"])
    said = about.get("num_tokens")
    kept = not about.get("truncated") and said != len(tokens)
    if len(answer) != len(tokens) or kept or not isinstance(said, int) or said < len(tokens):
        cut = "more, cut" if about.get("truncated") else "all"
        yield f"it has {len(tokens)} tokens and {len(answer)} marks of answers, and its JSON says {said} ({cut})"
    wrong = tokens[(tokens < 0) | (tokens >= expected.vocab_size)]
    if len(wrong):
        yield f"{len(wrong)} of its tokens are not in the vocabulary of {expected.vocab_size}, such as {wrong[0]}"
    if not np.isin(answer, (0, 1)).all() or not answer.any():
        yield f"its marks of answers are {sorted(set(answer.tolist()))}; 0 and 1 are allowed, and some answer has to be"
    if about.get("tokenizer_sha256") != expected.tokenizer:
        yield f"its tokens are of the tokenizer {about.get('tokenizer_sha256')}, the set's is {expected.tokenizer}"
