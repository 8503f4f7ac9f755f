"""Small data sets in the layouts of official downloads, with invented content: real videos, zips, lists and captions.

Every video shows a square of a colour that moves in a direction over a ground of its own. Captions name both.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

COLOURS = {
    "red": (225, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 220, 50),
    "white": (245, 245, 245),
    "black": (5, 5, 5),
}
MOTIONS = {"right": (0, 1), "left": (0, -1), "up": (-1, 0), "down": (1, 0)}
_SENTENCES = (
    "a {colour} square moves {motion}",
    "the {colour} box is going {motion}",
    "something {colour} slides {motion} over the ground",
    "a {colour} block travels {motion}",
    "there is a {colour} thing that moves {motion}",
)
_SIDE = 16


@dataclass(frozen=True)
class Scene:
    """What a video shows.

    Attributes:
        colour: of the square, one of COLOURS.
        motion: one of MOTIONS.
        seed: of the ground and of the square's path.
    """

    colour: str
    motion: str
    seed: int = 0

    def frames(self, num_frames: int = 16, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
        """Return u8 [T, H, W, 3]."""
        random = np.random.default_rng(self.seed)
        corners = random.integers(90, 150, (2, 2, 3)).astype(np.float64)
        y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
        ground = (1 - y) * ((1 - x) * corners[0, 0] + x * corners[0, 1]) + y * (
            (1 - x) * corners[1, 0] + x * corners[1, 1]
        )
        frames = np.repeat(ground.astype(np.uint8)[None], num_frames, 0)
        room = np.array([height - _SIDE, width - _SIDE])
        direction = np.array(MOTIONS[self.motion])
        across = random.integers(0, room + 1) * (direction == 0)
        start = across + room * (direction < 0)
        for number in range(num_frames):
            top, left = start + direction * room * number // (num_frames - 1)
            frames[number, top : top + _SIDE, left : left + _SIDE] = COLOURS[self.colour]
        return frames

    def captions(self, count: int) -> list[str]:
        """Return captions that name colour and motion; they repeat where there are many, as in the data sets."""
        return [
            _SENTENCES[(self.seed + number) % len(_SENTENCES)].format(colour=self.colour, motion=self.motion)
            for number in range(count)
        ]


def scenes(count: int, *, seed: int = 0) -> list[Scene]:
    """Return scenes whose colours and motions take turns, 24 different ones."""
    kinds = [(colour, motion) for motion in MOTIONS for colour in COLOURS]
    return [Scene(*kinds[number * 7 % len(kinds)], seed=seed + number) for number in range(count)]


def write_clip(path: Path, frames: NDArray[np.uint8], *, rate: int = 25) -> Path:
    """Encode as the data sets do: XviD in an .avi, H.264 in an .mp4, VP9 in a .webm."""
    codec, options = {
        ".avi": ("mpeg4", {}),
        ".mp4": ("libx264", {"preset": "ultrafast", "crf": "12"}),
        ".webm": ("libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}),
    }[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        if path.suffix == ".avi":
            stream.codec_context.codec_tag, stream.bit_rate = "XVID", 2_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def zip_folder(folder: Path, archive: Path, prefix: str) -> Path:
    """Put the files of a folder into a zip, below `prefix`, uncompressed as videos are, and remove them."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        for path in sorted(folder.iterdir()):
            out.write(path, f"{prefix}{path.name}")
            path.unlink()
    folder.rmdir()
    return archive


def _write_lines(path: Path, lines: Iterable[str], end: str = "\r\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())


def write_ucf101(
    root: Path,
    *,
    motions: Sequence[str] = ("right", "left"),
    num_groups: int = 4,
    num_clips: int = 1,
    num_frames: int = 16,
) -> Path:
    """Write UCF101: a class a motion, groups of clips of one colour; group 1, 2 and 3 are the tests of the three folds.

    As in the real one, the files of a class may be spelt with another capital letter than its folder.
    """
    classes = {f"Slide{motion.capitalize()}": motion for motion in sorted(motions)}
    lists = root / "ucfTrainTestlist"
    _write_lines(lists / "classInd.txt", (f"{number} {name}" for number, name in enumerate(classes, start=1)))
    colours = list(COLOURS)
    names: dict[int, list[tuple[str, int]]] = {group: [] for group in range(1, num_groups + 1)}
    for number, (name, motion) in enumerate(classes.items(), start=1):
        for group, listed in names.items():
            for clip in range(1, num_clips + 1):
                file = f"v_{name.replace('Left', 'left')}_g{group:02}_c{clip:02}.avi"
                scene = Scene(colours[group % len(colours)], motion, seed=1000 * number + 10 * group + clip)
                write_clip(root / "UCF-101" / name / file, scene.frames(num_frames))
                listed.append((f"{name}/{file}", number))
    for fold in (1, 2, 3):
        train = [f"{path} {number}" for group, clips in names.items() if group != fold for path, number in clips]
        _write_lines(lists / f"trainlist{fold:02}.txt", sorted(train))
        _write_lines(lists / f"testlist{fold:02}.txt", sorted(path for path, _ in names.get(fold, [])))
    return root


def write_msrvtt(
    root: Path,
    *,
    num_train: int = 4,
    num_test: int = 3,
    num_captions: int = 20,
    form: Literal["hub", "official"] = "hub",
    zipped: bool = True,
    num_frames: int = 16,
) -> Path:
    """Write MSR-VTT with its videos in a zip: "hub" as on Hugging Face, "official" as of 2016 with the lists of 1k-A.

    The train list of 7k has all training videos but the last one.
    """
    root.mkdir(parents=True, exist_ok=True)
    shown = {f"video{number}": scene for number, scene in enumerate(scenes(num_train + num_test))}
    _write_videos(root / "video", shown, ".mp4", num_frames)
    train, test = list(shown)[:num_train], list(shown)[num_train:]
    if zipped:
        zip_folder(root / "video", root / "MSRVTT_Videos.zip", "video/")
    if form == "hub":
        for name, ids in (("train_9k", train), ("train_7k", train[:-1])):
            rows = [_row(video_id, shown[video_id].captions(num_captions)) for video_id in ids]
            (root / f"msrvtt_{name}.json").write_text(json.dumps(rows))
        rows = [_row(video_id, shown[video_id].captions(1)[0]) for video_id in test]
        (root / "msrvtt_test_1k.json").write_text(json.dumps(rows))
        return root
    for file, ids in (("train_val_videodatainfo.json", train), ("test_videodatainfo.json", test)):
        split = "test" if ids is test else "train"
        videos = [{"id": int(name[5:]), "video_id": name, "category": 9, "split": split} for name in ids]
        texts = [(video_id, text) for video_id in reversed(ids) for text in shown[video_id].captions(num_captions)]
        sentences = [{"sen_id": n, "video_id": name, "caption": f" {text} "} for n, (name, text) in enumerate(texts)]
        (root / file).write_text(json.dumps({"info": {}, "videos": videos, "sentences": sentences}))
    for name, ids in (("9k", train), ("7k", train[:-1])):
        _write_lines(root / f"MSRVTT_train.{name}.csv", ["video_id", *ids], "\n")
    pairs = [f"ret{n},msr{video[5:]},{video},{shown[video].captions(1)[0]}" for n, video in enumerate(test)]
    _write_lines(root / "MSRVTT_JSFUSION_test.csv", ["key,vid_key,video_id,sentence", *pairs], "\n")
    return root


def write_msvd(
    root: Path,
    *,
    num_train: int = 3,
    num_validation: int = 1,
    num_test: int = 3,
    num_captions: int = 5,
    form: Literal["hub", "lists"] = "hub",
    zipped: bool = True,
    num_frames: int = 16,
) -> Path:
    """Write MSVD with its clips in a zip; clip n has `num_captions` + n % 3 captions. Ids may begin with a dash."""
    root.mkdir(parents=True, exist_ok=True)
    all_scenes = enumerate(scenes(num_train + num_validation + num_test, seed=500))
    shown = {f"{'-_a'[number % 3]}clip{number:06}_{number}_{number + 9}": scene for number, scene in all_scenes}
    _write_videos(root / "YouTubeClips", shown, ".avi", num_frames)
    if zipped:
        zip_folder(root / "YouTubeClips", root / "MSVD_Videos.zip", "YouTubeClips/")
    texts = {name: scene.captions(num_captions + number % 3) for number, (name, scene) in enumerate(shown.items())}
    ids = list(shown)
    splits = {
        "train": ids[:num_train],
        "val": ids[num_train : num_train + num_validation],
        "test": ids[num_train + num_validation :],
    }
    for name, chosen in splits.items():
        if form == "hub":
            rows = [_row(video_id, texts[video_id], ".avi") for video_id in chosen]
            (root / f"msvd_{name}.json").write_text(json.dumps(rows))
        else:
            _write_lines(root / "raw_data" / f"{name}_list.txt", chosen, "\n")
    if form == "lists":
        lines = [f"{video_id} {text}" for video_id in ids for text in texts[video_id]]
        _write_lines(root / "raw_data" / "AllVideoDescriptions.txt", ["# a head", "", *lines])
    return root


def write_ssv2(root: Path, *, num_train: int = 4, num_validation: int = 2, num_frames: int = 12) -> Path:
    """Write Something-Something v2: a template a motion, videos and annotations in one folder."""
    templates = {motion: f"Moving [something] {motion}" for motion in MOTIONS}
    names = sorted(template.replace("[", "").replace("]", "") for template in templates.values())
    (root / "labels").mkdir(parents=True, exist_ok=True)
    (root / "labels" / "labels.json").write_text(json.dumps({name: str(n) for n, name in enumerate(names)}))
    first = 1
    for split, count in (("train", num_train), ("validation", num_validation)):
        entries = []
        for video_id, scene in enumerate(scenes(count, seed=first), start=first):
            write_clip(root / f"{video_id}.webm", scene.frames(num_frames), rate=12)
            thing = f"a {scene.colour} square"
            text = templates[scene.motion].replace("[something]", thing).lower()
            about = {"id": str(video_id), "label": text, "template": templates[scene.motion], "placeholders": [thing]}
            entries.append(about)
        (root / "labels" / f"{split}.json").write_text(json.dumps(entries))
        first += count
    return root


def _write_videos(folder: Path, shown: Mapping[str, Scene], suffix: str, num_frames: int) -> None:
    for video_id, scene in shown.items():
        write_clip(folder / f"{video_id}{suffix}", scene.frames(num_frames))


def _row(video_id: str, caption: str | list[str], suffix: str = ".mp4") -> dict[str, object]:
    return {"video_id": video_id, "video": f"{video_id}{suffix}", "caption": caption, "source": "made here"}
