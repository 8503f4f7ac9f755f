"""What some tests need of the machine, or do to it."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., object])


def reads_with_stock_webdataset(test: Test) -> Test:
    """Stock webdataset leaves files for the collector to close: it has to collect them within the test."""
    marks: list[pytest.MarkDecorator] = [
        pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
        pytest.mark.usefixtures("garbage_collected"),
    ]
    for mark in marks:
        test = mark(test)
    return test


def _what_torch_compile_lacks() -> str:
    """Why torch cannot compile for the CPU here; nothing where it can."""
    torch = importlib.util.find_spec("torch")
    if torch is None or " " in str(torch.origin):
        return "it does not quote the path of its headers, and there is a space in it"
    if shutil.which(shlex.split(os.environ.get("CXX", "g++"))[0]) is None:
        return "it needs a C++ compiler"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "it needs the headers of Python"
    return ""


needs_torch_compile = pytest.mark.skipif(
    bool(_what_torch_compile_lacks()), reason=f"torch.compile on a CPU: {_what_torch_compile_lacks()}"
)
