"""Lists and annotations of official downloads, in invented content of a few lines and without videos."""

from __future__ import annotations

import json
from pathlib import Path

UCF = "https://www.crcv.ucf.edu/data/UCF101.php"
VTT = "https://huggingface.co/datasets/friedrichor/MSR-VTT"
MSVD = "https://huggingface.co/datasets/friedrichor/MSVD"
QUALCOMM = "https://www.qualcomm.com/developer/software/something-something-v-2-dataset"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def ucf_lists(root: Path, **files: str) -> Path:
    """UCF101 without videos: three classes, one of which is spelt in another way in its files."""
    texts = {
        "classInd": "1 BakeBread\r\n2 HandstandWalk\r\n3 ZipBag\r\n",
        "trainlist01": "BakeBread/v_BakeBread_g08_c01.avi 1\r\nHandstandWalk/v_HandStandWalk_g09_c02.avi 2\r\n",
        "testlist01": "ZipBag/v_ZipBag_g01_c01.avi\r\n",
    } | files
    (root / "UCF-101").mkdir(parents=True)
    (root / "ucfTrainTestlist").mkdir()
    for name, text in texts.items():
        (root / "ucfTrainTestlist" / f"{name}.txt").write_bytes(text.encode())
    return root


def rows(*captioned: tuple[str, object]) -> str:
    return json.dumps([{"video_id": name, "video": f"{name}.mp4", "caption": caption} for name, caption in captioned])


def official(root: Path, **more: str) -> Path:
    """MSR-VTT of 2016 with lists of 1k-A, without videos but one."""
    sentences = [
        {"sen_id": 3, "video_id": "video10", "caption": "fourth"},
        {"sen_id": 0, "video_id": "video10", "caption": "first"},
        {"sen_id": 1, "video_id": "video2", "caption": "second"},
        {"sen_id": 2, "video_id": "video30", "caption": "third"},
    ]
    texts = {
        "train_val_videodatainfo.json": json.dumps({"videos": [], "sentences": sentences}),
        "MSRVTT_JSFUSION_test.csv": "key,vid_key,video_id,sentence\nret0,msr30,video30,a test, of commas\n",
    }
    touch(root, "TrainValVideo/video2.mp4")
    for name, text in (texts | more).items():
        (root / name).write_bytes(text.replace("a test, of commas", '"a test, of commas"').encode())
    return root
