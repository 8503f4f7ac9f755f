"""How a clip is cut into tokens: the numbers that every student of cached targets shares."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """The grid of tokens and the width of the teacher's; the defaults are the reference, 8 x 196 tokens.

    Attributes:
        num_frames: frames of a clip, T.
        image_size: height and width of a frame in pixels.
        tubelet: frames in a token.
        patch: height and width of a token in pixels.
        target_dim: width of the teacher tokens in the shards.
    """

    num_frames: int = 16
    image_size: int = 224
    tubelet: int = 2
    patch: int = 16
    target_dim: int = 384

    def __post_init__(self) -> None:
        self.require_multiples(("num_frames", "tubelet"), ("image_size", "patch"))
        if self.target_dim < 1:
            raise ValueError(f"target_dim={self.target_dim}; it has to be positive")

    def require_multiples(self, *pairs: tuple[str, str]) -> None:
        """Refuse a field that is not a positive multiple of another.

        Raises:
            ValueError: Naming both.
        """
        for size, unit in pairs:
            if getattr(self, unit) < 1 or getattr(self, size) < 1 or getattr(self, size) % getattr(self, unit):
                raise ValueError(
                    f"{size}={getattr(self, size)} is not a positive multiple of {unit}={getattr(self, unit)}; "
                    f"choose {size} divisible by {unit}"
                )

    @property
    def num_times(self) -> int:
        """Token steps along time, T'."""
        return self.num_frames // self.tubelet

    @property
    def num_positions(self) -> int:
        """Spatial positions of a token step, S."""
        return (self.image_size // self.patch) ** 2

    @property
    def num_tokens(self) -> int:
        """Tokens of a clip, N = T' * S; token i is at t = i // S, s = i % S."""
        return self.num_times * self.num_positions
