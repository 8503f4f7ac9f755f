"""`reelshard evaluate NAME`: what a frozen encoder has learned, one file an evaluation.

Those in `EVALUATIONS` take any encoder: a run, weights alone, a published VideoMAE. Any other NAME is looked up among
what the run's own system is measured by (`tools.evaluate.system`).
"""

from __future__ import annotations

import argparse
import importlib

from tools.evaluate.system import evaluate as evaluate
from tools.evaluate.system import run as run

HELP = "measure what a trained student has learned"
# Name -> its module, with HELP, add_arguments and run as every command has them.
EVALUATIONS = {
    "probe": "tools.evaluate.probe",
    "knn": "tools.evaluate.knn",
    "arrow": "tools.evaluate.arrow",
    "features": "tools.evaluate.features",
    "compare": "tools.evaluate.compare",
    "retrieval": "tools.evaluate.retrieval",
    "ucf101": "tools.evaluate.ucf101",
    "classify": "tools.evaluate.classify",
    "captions": "tools.evaluate.captions",
    "vqa": "tools.evaluate.vqa",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of an evaluation of the run's own system, and list those of every encoder."""
    from tools.evaluate import system

    system.add_arguments(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    listed = [f"  {name:<10} {importlib.import_module(module).HELP}" for name, module in EVALUATIONS.items()]
    parser.description = "\n".join(
        [
            "Of any encoder; `reelshard evaluate NAME --help` explains each:",
            *listed,
            "",
            "Any other NAME is what the system of the run is measured by:",
            parser.description or "",
        ]
    )
