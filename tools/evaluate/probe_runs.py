"""The probes of one command: of the encoder and of what stands beside it, on all labels and on shares of them."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from evaluation.attentive import AttentiveConfig, TokensOf, attentive_probe
from evaluation.encoder import Encoder, dense_clip, pixel_encoder
from evaluation.features import Features, Vectors, collect, layer_vectors
from evaluation.heads import Head, HeadFacts, HeadKind, save_head
from evaluation.linear import ProbeConfig
from evaluation.probe import FeatureSet, probe_features
from evaluation.result import Result, Split
from tools.evaluate.common import Bench
from tools.evaluate.stored import StoredField, stored_field
from tools.progress import track

FACTORS = (0.1, 1.0, 10.0)  # of the learning rate and the weight decay, where nothing is said of what to choose among
V_JEPA_2_LRS = (1e-4, 3e-4, 1e-3, 3e-3)
HEAD_WIDTH = 64

_Probes = tuple[dict[str, Result], list[str]]


def run_probes(args: argparse.Namespace, bench: Bench) -> _Probes:
    """Do what the command says.

    Returns:
        The results by what they are called, that of the encoder first, and further lines for the terminal.

    Raises:
        ValueError: arguments, encoder and data sets do not fit together.
    """
    encoders = {"trained": bench.encoder} | dict(_baselines(args, bench.encoder))
    layers = {name: _layers(args.layers, encoder) for name, encoder in encoders.items()}
    stored = _stored(args, bench)
    if stored is not None:
        layers["trained"] = (stored.layer,)
    measure = _linear if args.kind == "linear" else _attentive
    results, head, facts, lines = measure(args, bench, encoders, layers, stored)
    if args.out is not None and bench.world.rank == 0:
        args.out.mkdir(parents=True, exist_ok=True)
        path = Path(args.out) / "probe.safetensors"
        save_head(path, head, facts)
        lines.append(f"classifier written to {path}")
    return results, [*lines, f"views: {bench.views}"]


def _baselines(args: argparse.Namespace, encoder: Encoder) -> Iterator[tuple[str, Encoder]]:
    wanted = args.baselines
    if wanted is None:
        wanted = [] if args.features else ["untrained", "pixels"]
    if "untrained" in wanted:
        yield "untrained", encoder.untrained(args.seed or 0)
    if "pixels" in wanted:
        yield "pixels", pixel_encoder(encoder)


def _layers(wanted: Sequence[str], encoder: Encoder) -> tuple[int, ...]:
    """The numbers of the layers to choose among, each once."""
    if encoder.kind == "pixels" or list(wanted) == ["last"]:
        return (encoder.num_layers,)
    if list(wanted) == ["all"]:
        return tuple(range(1, encoder.num_layers + 1))
    found = [str(encoder.num_layers) if each == "last" else each for each in wanted]
    for each in found:
        if not each.isdecimal() or not 1 <= int(each) <= encoder.num_layers:
            raise ValueError(
                f"--layers has {each!r}; {encoder.name} has layers 1 to {encoder.num_layers}, or say last, or all alone"
            )
    return tuple(sorted({int(each) for each in found}))


def _stored(args: argparse.Namespace, bench: Bench) -> StoredField | None:
    if args.features is None:
        return None
    if args.layers != ["last"]:
        raise ValueError("--features is of the layer that it was stored of: leave --layers out")
    return stored_field(args.features, bench.encoder, bench.datasets)


def _linear(
    args: argparse.Namespace,
    bench: Bench,
    encoders: Mapping[str, Encoder],
    layers: Mapping[str, Sequence[int]],
    stored: StoredField | None,
) -> tuple[dict[str, Result], Head, HeadFacts, list[str]]:
    config = _linear_config(args, bench)
    train, val = _features(bench, encoders, layers, stored)
    results, kept, layer = {}, None, 0
    for name, encoder in encoders.items():
        for share in args.labels:
            called = name if share == 1 else f"{name}, {share:.2%} of the labels"
            about = encoder.protocol() | ({} if stored is None else {"stored_features": stored.name})
            found = probe_features(
                train[name], val[name], config, encoder.device, about=about, digest=encoder.digest, share=share
            )
            results[called] = found.result
            if kept is None:
                kept, layer = found.heads[0], found.layer
    assert kept is not None
    return results, kept, _facts(bench, "linear", layer, 1, 1), []


def _linear_config(args: argparse.Namespace, bench: Bench) -> ProbeConfig:
    """What the recipe says of its probe, with the arguments on top, and settings to choose among."""
    config = getattr(bench.recipe, "evaluate", None)
    config = config if isinstance(config, ProbeConfig) else ProbeConfig()
    if args.epochs is not None:
        config = dataclasses.replace(config, epochs=args.epochs)
    if args.seed is not None:
        config = dataclasses.replace(config, seeds=tuple(args.seed + n for n in range(len(config.seeds))))
    lrs = args.lr or config.lrs or [config.lr * factor for factor in FACTORS]
    decays = args.weight_decay or config.weight_decays or [config.weight_decay * factor for factor in FACTORS]
    return dataclasses.replace(config, lrs=tuple(lrs), weight_decays=tuple(dict.fromkeys(decays)))


def _features(
    bench: Bench, encoders: Mapping[str, Encoder], layers: Mapping[str, Sequence[int]], stored: StoredField | None
) -> tuple[dict[str, FeatureSet], dict[str, FeatureSet]]:
    """The features of both data sets, of all encoders in one pass over the clips."""
    total = sum(len(dataset) for dataset in bench.datasets.values())
    fields = ("clip", "label") if stored is None else (stored.name, "label", *(["clip"] if len(encoders) > 1 else []))
    found = []
    with (
        track("encoding", total=total, unit="clips") as advance,
        bench.splits(fields, advance=advance) as splits,
    ):
        for role in ("train", "val"):
            found.append(_features_of(splits[role], encoders, layers, stored, bench))
    return found[0], found[1]


def _features_of(
    split: Split,
    encoders: Mapping[str, Encoder],
    layers: Mapping[str, Sequence[int]],
    stored: StoredField | None,
    bench: Bench,
) -> dict[str, FeatureSet]:
    sources: list[tuple[str, int]] = [(name, layer) for name in encoders for layer in layers[name]]
    vectors: list[Vectors] = [layer_vectors(encoder, layers[name]) for name, encoder in encoders.items()]

    def all_vectors(batch: Mapping[str, Tensor]) -> list[Tensor]:
        given = [] if stored is None else [stored.tokens(batch).mean(dim=1)]
        encoded = vectors if stored is None else vectors[1:]
        return given + [vector for each in encoded for vector in each(batch)]

    found = collect(split.batches, all_vectors, world=bench.world)
    by_name: dict[str, dict[int, Features]] = {}
    for (name, layer), features in zip(sources, found, strict=True):
        by_name.setdefault(name, {})[layer] = features
    return {name: FeatureSet.of_features(features, split) for name, features in by_name.items()}


def _attentive(
    args: argparse.Namespace,
    bench: Bench,
    encoders: Mapping[str, Encoder],
    layers: Mapping[str, Sequence[int]],
    stored: StoredField | None,
) -> tuple[dict[str, Result], Head, HeadFacts, list[str]]:
    results, kept, facts = {}, None, None
    base = _attentive_config(args)
    for name, encoder in encoders.items():
        source = stored if encoder is bench.encoder else None
        heads = _heads(args, encoder.width)
        for share in args.labels:
            called = name if share == 1 else f"{name}, {share:.2%} of the labels"
            config = dataclasses.replace(base, heads=heads, label_share=share)
            total = len(bench.datasets["train"]) * config.epochs + len(bench.datasets["val"])
            fields = ("clip" if source is None else source.name, "label")
            with (
                track(f"probing {name}", total=total, unit="clips") as advance,
                bench.splits(fields, advance=advance, shuffled={"train": config.seed}) as splits,
            ):
                found = attentive_probe(
                    _tokens_of(encoder, layers[name], source),
                    layers[name],
                    splits,
                    config,
                    bench.world,
                    width=encoder.width,
                    device=encoder.device,
                    dtype=encoder.dtype,
                    about=encoder.protocol() | ({} if source is None else {"stored_features": source.name}),
                    digest=encoder.digest,
                )
            results[called] = found.result
            if kept is None:
                kept, facts = found.head, _facts(bench, "attentive", found.layer, config.blocks, heads)
    assert kept is not None
    assert facts is not None
    return results, kept, facts, [spell_size(bench, stored)]


def _attentive_config(args: argparse.Namespace) -> AttentiveConfig:
    four = args.blocks > 1
    lrs = args.lr or (V_JEPA_2_LRS if four else (3e-4, 1e-3, 3e-3))
    decays = args.weight_decay or ((0.01, 0.1) if four else (0.01,))
    config = AttentiveConfig(blocks=args.blocks, lrs=tuple(lrs), weight_decays=tuple(decays), seed=args.seed or 0)
    return config if args.epochs is None else dataclasses.replace(config, epochs=args.epochs)


def _heads(args: argparse.Namespace, width: int) -> int:
    heads: int = args.heads or max(1, width // HEAD_WIDTH)
    if width % heads:
        raise ValueError(f"--heads is {heads}, tokens are {width} wide; give a number that divides it")
    return heads


def _tokens_of(encoder: Encoder, layers: Sequence[int], stored: StoredField | None) -> TokensOf:
    def tokens(batch: Mapping[str, Tensor], rows: Tensor) -> dict[int, Tensor]:
        if stored is not None:
            return {layers[0]: stored.tokens({stored.name: batch[stored.name][rows]})}
        clip = dense_clip(batch["clip"][rows], encoder)
        return dict(zip(layers, encoder.layers(clip, layers), strict=True))

    return tokens


def spell_size(bench: Bench, stored: StoredField | None) -> str:
    """How much a pass of an attentive probe streams, and from where."""
    encoder, count = bench.encoder, len(bench.datasets["train"])
    num_bytes = encoder.grid[0] * encoder.grid[1] * encoder.width * 2
    origin = "encoded anew in each pass" if stored is None else f"read from the field {stored.name}"
    return (
        f"tokens: {encoder.grid[0] * encoder.grid[1]} x {encoder.width} in f16 = {num_bytes / 1e6:.2f} MB a clip, "
        f"{count * num_bytes / 1e9:.2f} GB for the {count:,} training clips, {origin}"
    )


def _facts(bench: Bench, kind: HeadKind, layer: int, blocks: int, heads: int) -> HeadFacts:
    encoder = bench.encoder
    return HeadFacts(
        kind=kind,
        width=encoder.width,
        label_names=tuple(bench.datasets["train"].manifest.label_names),
        layer=layer,
        encoder=encoder.name,
        encoder_digest=encoder.digest,
        blocks=blocks,
        heads=heads,
        view_hash=encoder.view_hash,
    )
