"""The numbers in docs/training.md are those of the code, and the commands of all pages are accepted by it."""

import argparse
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.salt import SALT, SALTConfig
from model.st_jepa import STJEPA, STJEPAConfig
from tools.cli import COMMANDS, split_overrides
from tools.recipe import load_recipe
from tools.recipes import RECIPES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "training.md"
# docs/extending.md makes its own recipe; tests/test_docs_extending.py follows it.
PAGES = (
    ROOT / "README.md",
    *(page for page in (ROOT / "docs").glob("*.md") if page.stem != "extending"),
    *RECIPES.glob("*.yaml"),
)
COMMAND = re.compile(r"reelshard (train|build|preflight|evaluate)\b([^`\n'\"#;]*)")
ROWS = [
    [cell.strip() for cell in line.strip("|\n ").split("|")]
    for line in PAGE.read_text().splitlines()
    if re.match(r"\| (ST-JEPA|SALT) [\w ]+\| [\d,]+ \|", line)
]
ST_JEPA: dict[str, dict[str, Any]] = {"joint": {"num_joint": 12}}
SIZES = {"Ti": (192, 3), "S": (384, 6), "B": (768, 12)}
CLIP, TUBES = (1, 3, 16, 224, 224), (1, 49, 8, 2, 16, 16, 3)


def gflop(module: nn.Module, *arguments: Tensor) -> float:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(*arguments)
    return round(float(counter.get_total_flops()) / 1e9, 1)


def count(module: nn.Module) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if name != "pos_embed")


def numbers(*shape: int) -> Tensor:
    return torch.empty(1, *shape, dtype=torch.int64, device="meta")


def test_the_page_has_a_row_for_every_mode_and_size() -> None:
    assert len(ROWS) == 10


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_parameters_and_operations_are_those_on_the_page(row: list[str]) -> None:
    words = row[0].split()
    clip, tubes = (torch.empty(*shape, device="meta") for shape in (CLIP, TUBES))
    if words[0] == "ST-JEPA":
        change = ST_JEPA.get(words[1], {"factorised": words[1]})
        student = STJEPA(STJEPAConfig(**change)).to("meta")
        visible, masked = numbers(49), numbers(147)
        measured = [
            gflop(student.encoder, clip),
            gflop(student.encoder, tubes, visible),
            gflop(student, tubes, visible, masked),
        ]
        parameters = [count(student.encoder), sum(p.numel() for p in student.parameters())]
    else:
        dim, heads = SIZES[words[1]]
        mode: Any = words[2]
        salt = SALT(SALTConfig(mode=mode, dim=dim, heads=heads)).to("meta")
        measured = [gflop(salt, clip, numbers(392), numbers(1176))]
        parameters = [count(salt.encoder), sum(p.numel() for p in salt.parameters())]
    assert [int(cell.replace(",", "")) for cell in row[1:3]] == parameters
    assert [float(cell) for cell in row[3:]] == measured


def written_commands() -> list[tuple[str, list[str]]]:
    """Each command with a recipe of ours that a page or a recipe's comment gives whole: its name and its arguments.

    A recipe that is a file is made on its page; the test of that page runs its commands.
    """
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for name, rest in COMMAND.findall(text):
            arguments = shlex.split(rest.partition("[")[0])
            if "--recipe" not in arguments or "..." in arguments:
                continue
            if not arguments[arguments.index("--recipe") + 1].endswith(".yaml"):
                found.append((name, arguments))
    return found


WRITTEN = written_commands()


def test_the_pages_give_commands_for_every_recipe_that_is_not_the_demos() -> None:
    named = {arguments[arguments.index("--recipe") + 1] for _, arguments in WRITTEN}
    assert {"st_jepa_ssv2", "salt_ti_ssv2", "salt_s_ssv2", "salt_b_ssv2"} <= named


@pytest.mark.parametrize(("name", "arguments"), WRITTEN, ids=[" ".join([n, *a])[:60] for n, a in WRITTEN])
def test_a_command_on_a_page_is_one_that_the_command_line_takes(name: str, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    importlib.import_module(COMMANDS[name]).add_arguments(parser)
    own, overrides = split_overrides(arguments)
    load_recipe(parser.parse_args(own).recipe, overrides)
