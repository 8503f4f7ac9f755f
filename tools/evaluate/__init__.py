"""`reelshard evaluate NAME`: what a trained model has learned, one file an evaluation.

Those in `EVALUATIONS` take any encoder: a run, weights alone, a published VideoMAE; those in `OF_SPEAKERS` any model
that answers in words, or a file of what it said. Any other NAME is looked up among what the run's own system is
measured by (`tools.evaluate.system`).
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
    "choice": "tools.evaluate.choice",
}
OF_SPEAKERS = ("captions", "vqa", "choice")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of an evaluation of the run's own system, and list those of every encoder."""
    from tools.evaluate import system

    system.add_arguments(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    helps = {name: importlib.import_module(module).HELP for name, module in EVALUATIONS.items()}
    listed = {name: f"  {name:<10} {text}" for name, text in helps.items()}
    parser.description = "\n".join(
        [
            "Of any encoder (a run, weights alone, a VideoMAE); `reelshard evaluate NAME --help` explains each:",
            *(line for name, line in listed.items() if name not in OF_SPEAKERS),
            "",
            "Of any model that answers in words (a run, SmolVLM, LLaVA); the first two of a file of answers, too:",
            *(listed[name] for name in OF_SPEAKERS),
            "",
            "Any other NAME is what the system of the run is measured by:",
            parser.description or "",
        ]
    )
