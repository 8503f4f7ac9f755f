"""Objectives, the loop, its optimiser, metrics and checkpoints."""
