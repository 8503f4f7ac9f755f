"""What the demo of the foveated VLM sees and is asked: scenes of several seconds, with a small mark in one place.

Colour, shape and motion of a scene fill the frame; the mark takes a twentieth of it, a patch of DINOv2, and its colour
is what a second, closer look should tell better than a first one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.demo.scenes import MOTIONS, SHAPES, Scene, draw_scene, render
from tools.demo.videos import encode_webm

HEIGHT, WIDTH = 96, 128
RATE = 2  # frames a second of a video, of which a view of 1 fps takes every second
SECONDS = (2, 12)  # of a video, both among them
MARK_SIDE = 0.26  # of the frame's height
MARKS = {"magenta": (255, 0, 255), "cyan": (0, 255, 255), "lime": (130, 255, 0)}
PLACES = {
    "top left": (0.25, 0.25),
    "top right": (0.25, 0.75),
    "bottom left": (0.75, 0.25),
    "bottom right": (0.75, 0.75),
}
SPREAD = 0.1  # how far from its place's centre the mark may lie, as a share of the frame


@dataclass(frozen=True, kw_only=True)
class Film:
    """One video, ready to be drawn.

    Attributes:
        scene: what moves.
        seconds: how long.
        mark: the mark's colour, of `MARKS`.
        place: the quarter of the frame that it is in, of `PLACES`.
        centre: (down, right) of the mark's centre, as shares of the frame.
    """

    scene: Scene
    seconds: int
    mark: str
    place: str
    centre: tuple[float, float]

    @property
    def shapes(self) -> str:
        """What moves, such as "discs"."""
        return SHAPES[self.scene.shape]

    @property
    def caption(self) -> str:
        """By the annotation template of its motion."""
        what = self.scene.motion.template.replace("[something]", f"{self.scene.colour} {self.shapes}")
        return f"{what}, with a {self.mark} mark at the {self.place}."


# Kind of question -> how it is asked, and what of a film answers it. The last one is about the small detail.
QUESTIONS: Mapping[str, tuple[str, Callable[[Film], str]]] = {
    "colour": ("What colour are the shapes?", lambda film: film.scene.colour),
    "place": ("Where is the mark?", lambda film: film.place),
    "detail": ("What colour is the mark?", lambda film: film.mark),
}


def film_of(seed: int, number: int) -> Film:
    """The film of a seed and a number; motions take turns."""
    rng = np.random.default_rng([seed, number])
    scene = draw_scene(MOTIONS[number % len(MOTIONS)], rng)
    place = str(rng.choice(list(PLACES)))
    down, right = np.array(PLACES[place]) + rng.uniform(-SPREAD, SPREAD, size=2)
    return Film(
        scene=scene,
        seconds=int(rng.integers(*SECONDS, endpoint=True)),
        mark=str(rng.choice(list(MARKS))),
        place=place,
        centre=(float(down), float(right)),
    )


def draw(film: Film) -> NDArray[np.uint8]:
    """Its frames, u8 [T, H, W, 3]."""
    frames = render(film.scene, np.linspace(0, 1, film.seconds * RATE).tolist(), HEIGHT, WIDTH)
    half = round(MARK_SIDE * HEIGHT / 2)
    down, right = round(film.centre[0] * HEIGHT), round(film.centre[1] * WIDTH)
    frames[:, down - half : down + half, right - half : right + half] = MARKS[film.mark]
    return frames


def make_films(seed: int, folder: Path, numbers: range) -> int:
    """Write films as `folder/NUMBER.webm`; the result is how many."""
    for number in numbers:
        encode_webm(draw(film_of(seed, number)), folder / video_name(number), RATE)
    return len(numbers)


def video_name(number: int) -> str:
    """Of a film's file."""
    return f"{number:05d}.webm"


def captions(seed: int, numbers: range) -> Iterator[dict[str, Any]]:
    """A chat a film: its caption."""
    for number in numbers:
        about = {"id": f"caption-{number:05d}", "video": video_name(number), "source": "caption"}
        yield about | {"caption": film_of(seed, number).caption}


def lessons(seed: int, numbers: range) -> Iterator[dict[str, Any]]:
    """A chat a film: all questions, in an order of its own."""
    for number in numbers:
        film = film_of(seed, number)
        order = np.random.default_rng([seed, number, 1]).permutation(list(QUESTIONS)).tolist()
        turns = [turn for kind in order for turn in asked(film, kind)]
        yield {"id": f"lesson-{number:05d}", "video": video_name(number), "messages": turns, "source": "lesson"}


def exam(seed: int, numbers: range) -> Iterator[dict[str, Any]]:
    """A chat a film: one question, whose kind is the chat's source; kinds take turns."""
    kinds = list(QUESTIONS)
    for number in numbers:
        kind = kinds[number // len(MOTIONS) % len(kinds)]
        turns = asked(film_of(seed, number), kind)
        yield {"id": f"{kind}-{number:05d}", "video": video_name(number), "messages": turns, "source": kind}


def texts(seed: int, numbers: range) -> Iterator[dict[str, Any]]:
    """Chats without a video: what a film shows is said instead, and then asked."""
    for number in numbers:
        film = film_of(seed, number)
        kind = list(QUESTIONS)[number % len(QUESTIONS)]
        question, answer = asked(film, kind)
        told = f"The {film.shapes} are {film.scene.colour}, the mark is {film.mark} and at the {film.place}. "
        turns = [question | {"content": told + question["content"]}, answer]
        yield {"id": f"text-{number:05d}", "messages": turns, "source": "text"}


def asked(film: Film, kind: str) -> list[dict[str, str]]:
    """A question about a film and the right answer, as turns of a chat."""
    question, answer = QUESTIONS[kind]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer(film)}]
