"""A small SAM3 that watches a video frame by frame: what it finds in each, given what it remembers of those before."""

from __future__ import annotations

import torch
from torch import Tensor

from model.memory import MemoryRing
from model.sam3 import Predictions, Sam3Student, Text


class Watcher:
    """A student with the memory of one video."""

    def __init__(self, student: Sam3Student, text: Text, num_context: int) -> None:
        """Begin with no memory.

        Args:
            student: in evaluation mode.
            text: what it is asked, of one row.
            num_context: frames that are remembered; 0 looks at each frame alone.

        Raises:
            ValueError: frames are to be remembered by a student that has no memory.
        """
        if num_context and student.memory_resampler is None:
            raise ValueError("this student has no memory: it sees single pictures only (num_context 0)")
        self._student, self._text = student, text
        self._ring = MemoryRing(num_context)

    @property
    def device(self) -> torch.device:
        """Where frames have to be."""
        return self._student.pixel_mean.device

    def reset(self) -> None:
        """Forget all, as at a cut or at another video's first frame."""
        self._ring.reset()

    @torch.inference_mode()
    def look(self, frame: Tensor) -> Predictions:
        """Find in the next frame, u8 `[H, W, 3]` on the student's device, what the text names; then remember it.

        The first frame of all is looked at alone. What is remembered is the student's own features, which its first
        stage taught it to make as the teacher does.
        """
        seen = self._student.see(self._student.pixels(frame.movedim(-1, 0)[None]))
        found = self._student.find(seen, self._text, self._ring.context())
        self._ring.push(seen.context)
        return found
