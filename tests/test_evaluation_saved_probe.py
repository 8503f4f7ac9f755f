"""Probes as files: what comes back, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evaluation.heads import AttentiveHead, LinearHead
from evaluation.saved_probe import FILE, HEADER, SavedProbe, load_probe, save_probe
from tests.test_evaluation_retrieval import clips, encoder

CLASSES = ("cat", "dog", "ëel $x$")


def linear() -> LinearHead:
    head = LinearHead(12, len(CLASSES), torch.Generator().manual_seed(0))
    head.mean += 0.1
    return head.eval()


def attentive(blocks: int) -> AttentiveHead:
    return AttentiveHead(12, len(CLASSES), blocks=blocks, heads=3, generator=torch.Generator().manual_seed(0)).eval()


def saved(head: LinearHead | AttentiveHead) -> SavedProbe:
    return SavedProbe(
        head=head,
        classes=CLASSES,
        layer=1,
        encoder="tiny",
        encoder_digest=encoder().digest,
        about={"top1": 0.5},
    )


@pytest.mark.parametrize("head", [linear(), attentive(1), attentive(3)])
def test_a_probe_that_is_read_says_what_the_one_that_was_written_says(
    head: LinearHead | AttentiveHead, tmp_path: Path
) -> None:
    probe, shown = saved(head), clips([1, 2, 5], seed=0)
    for name in ("one", "two"):
        save_probe(tmp_path / name / FILE, probe)
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()
    found = load_probe(tmp_path / "one")
    assert (found.classes, found.layer, found.kind, found.about) == (list(CLASSES), 1, probe.kind, {"top1": 0.5})
    probabilities = found(encoder(), shown)
    assert torch.equal(probabilities, probe(encoder(), shown))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    found.refuse_other(encoder())
    with pytest.raises(ValueError, match=r"was trained on tiny .*give that encoder"):
        found.refuse_other(encoder(seed=1))


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_a_file_that_was_cut_is_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    save_probe(tmp_path / FILE, saved(linear()))
    whole = (tmp_path / FILE).read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ValueError, match="is not a probe of this version") as error:
        load_probe(cut)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "its format is 2"),
        ({"kind": "magic"}, "its kind 'magic'"),
        ({"classes": ["cat"]}, "it says 1 classes of 12 values and 1 blocks, and holds [3, 12]"),
        ({"width": 1 << 15}, "it says 3 classes of 32768 values"),
        ({"width": -1}, "width has to be a whole number"),
        ({"layer": "1"}, "layer has to be a whole number"),
        ({"kind": "attentive", "blocks": 1 << 15}, "and 32768 blocks"),
        ({"kind": "attentive"}, "Missing key(s)"),
        ({"encoder_digest": None}, "has to be text"),
        ({"about": []}, "has to be an object"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_probe(tmp_path / FILE, saved(linear()))
    with safetensors.safe_open(tmp_path / FILE, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    tensors = safetensors.torch.load_file(tmp_path / FILE)
    data = safetensors.torch.save(tensors, {HEADER: json.dumps(header | changes)})
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(said)):
        load_probe(tmp_path)


def test_what_is_no_probe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no probe"):
        load_probe(tmp_path)
    (tmp_path / FILE).write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match="its header holds no probe"):
        load_probe(tmp_path)
