"""docs/sam3.md: its stages run, each by the line that stands there, its numbers are the model's, its code works."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.sam3 import Text
from tests.sam3_runs import LENGTHS, Workshop
from tests.sam3_students import write_student
from tests.sav_sets import SIDE, write_train
from tests.test_model_sam3_reference import reference
from tools.cli import main
from training.metrics import read_metrics

PAGE = (Path(__file__).parents[1] / "docs" / "sam3.md").read_text()
STAGES, _, EXPORT, *_ = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
STEPS = 2


@pytest.mark.slow
def test_the_stages_run_by_the_lines_that_stand_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop = Workshop(tmp_path)
    write_train(tmp_path / "SA-V", LENGTHS)
    workshop.write_models()
    (tmp_path / "SA-V" / "sav_train").rename(tmp_path / "SA-V" / "train")
    for name in ("sav_train", "sav_val"):
        (tmp_path / "SA-V" / name).symlink_to("train")
    write_student(tmp_path / "begin")
    monkeypatch.chdir(tmp_path)
    for line in STAGES.splitlines():
        words = [tmp_path / "begin" if word == "reference" else word for word in shlex.split(line)[1:]]
        place = words.index("--recipe") + 1
        words[place] = workshop.recipe(str(words[place]))
        steps = [f"--train.steps={STEPS}"] if words[0] == "train" else []
        assert main([*map(str, words), *steps]) == 0, line
    assert len(read_metrics(tmp_path / "runs" / "sam3_video" / "metrics.jsonl")) == STEPS
    assert main(shlex.split(EXPORT)[1:]) == 0
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1].replace("504", str(SIDE))  # type: ignore[index]
    frames = [torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8) for _ in range(3)]
    space = {"folder": tmp_path / "exported", "frames": frames}
    exec(code, space)  # a page of ours
    assert space["found"].masks.shape[:2] == (1, 10)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["reference", "reference-192"])
def test_its_numbers_are_those_of_the_model(name: str) -> None:
    with torch.device("meta"):
        student = reference(name).eval().requires_grad_(False)
        pixels, memory = torch.zeros(1, 3, 504, 504), torch.zeros(1, 8, 256, 18, 18)
        text = Text(torch.zeros(1, 32, 256), torch.ones(1, 32, dtype=torch.bool))
    gflop = []
    for given in (None, memory):
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            student.find(student.see(pixels), text, given)
        gflop.append(counter.get_total_flops() / 1e9)
    assert f"; {gflop[0]:.1f}" in PAGE
    assert f"GFLOP a picture, {gflop[1] - gflop[0]:.1f} more with a memory" in PAGE
    parts = (student.memory_resampler, student.memory_attention)
    counts = [sum(p.numel() for p in part.parameters()) for part in parts if part is not None]
    assert all(f"{count:,}" in PAGE for count in counts)
