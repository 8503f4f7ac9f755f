"""Recipes that come with the project, and where they are."""

from pathlib import Path

RECIPES = Path(__file__).parent
