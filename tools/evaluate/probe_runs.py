"""The probes of one command: of the encoder and of what stands beside it, on all labels and on shares of them."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor

from evaluation.attentive import AttentiveConfig, TokensOf, attentive_probe
from evaluation.encoder import Encoder, dense_clip
from evaluation.heads import AttentiveHead, LinearHead
from evaluation.linear import ProbeConfig
from evaluation.probe import probe_features
from evaluation.result import Result
from evaluation.saved_probe import FILE, SavedProbe, save_probe
from tools.evaluate.beside import TRAINED, encode, with_baselines
from tools.evaluate.common import Bench
from tools.evaluate.stored import StoredField, stored_field
from tools.progress import track

# Of the recipe's learning rate and weight decay, to choose among where nothing else is said; the first of equals wins.
FACTORS = (1.0, 0.1, 10.0)
V_JEPA_2_LRS = (1e-3, 1e-4, 3e-4, 3e-3)
HEAD_WIDTH = 64

Head = LinearHead | AttentiveHead
_Probes = tuple[dict[str, Result], list[str]]


def run_probes(args: argparse.Namespace, bench: Bench) -> _Probes:
    """Do what the command says.

    Returns:
        The results by what they are called, that of the encoder first, and further lines for the terminal.

    Raises:
        ValueError: arguments, encoder and data sets do not fit together.
    """
    encoders = with_baselines(bench.encoder, _baselines(args), args.seed or 0)
    layers = {name: _layers(args.layers, encoder) for name, encoder in encoders.items()}
    stored = _stored(args, bench)
    if stored is not None:
        layers[TRAINED] = (stored.layer,)
    if args.kind == "linear":
        results, lines = _linear(args, bench, encoders, layers, stored)
    else:
        results, lines = _attentive(args, bench, encoders, layers, stored)
    return results, [*lines, f"views: {bench.views}"]


def _baselines(args: argparse.Namespace) -> Sequence[str]:
    if args.baselines is None:
        return () if args.features else ("untrained", "pixels")
    found: list[str] = args.baselines
    return found


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
) -> _Probes:
    config = _linear_config(args, bench)
    train, val = encode(bench, encoders, layers, stored)
    results: dict[str, Result] = {}
    lines: list[str] = []
    for name, encoder in encoders.items():
        for share in args.labels:
            called = name if share == 1 else f"{name}, {share:.3g} of the labels"
            about = encoder.protocol() | ({} if stored is None else {"stored_features": stored.name})
            found = probe_features(
                train[name], val[name], config, encoder.device, about=about, digest=encoder.digest, share=share
            )
            if not results:
                lines += _keep(args, bench, found.heads[0], found.layer, found.result)
            results[called] = found.result
    return results, lines


def _keep(args: argparse.Namespace, bench: Bench, head: Head, layer: int, result: Result) -> list[str]:
    """Write the classifier where the arguments say; a line that says so."""
    if args.out is None or bench.world.rank != 0:
        return []
    probe = SavedProbe(
        head=head,
        classes=tuple(bench.datasets["train"].manifest.label_names),
        layer=layer,
        encoder=bench.encoder.name,
        encoder_digest=bench.encoder.digest,
        about={"top1": result.metrics["top1"], "seed": result.seed, **result.digests},
    )
    save_probe(args.out / FILE, probe)
    return [f"classifier written to {args.out / FILE}"]


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


def _attentive(
    args: argparse.Namespace,
    bench: Bench,
    encoders: Mapping[str, Encoder],
    layers: Mapping[str, Sequence[int]],
    stored: StoredField | None,
) -> _Probes:
    results: dict[str, Result] = {}
    lines = [spell_size(bench, stored)]
    base = _attentive_config(args)
    for name, encoder in encoders.items():
        source = stored if encoder is bench.encoder else None
        heads = _heads(args, encoder.width)
        for share in args.labels:
            called = name if share == 1 else f"{name}, {share:.3g} of the labels"
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
            if not results:
                lines += _keep(args, bench, found.head, found.layer, found.result)
            results[called] = found.result
    return results, lines


def _attentive_config(args: argparse.Namespace) -> AttentiveConfig:
    four = args.blocks > 1
    lrs = args.lr or (V_JEPA_2_LRS if four else (1e-3, 3e-4, 3e-3))
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
