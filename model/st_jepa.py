"""ST-JEPA: a student that sees a quarter of a clip and predicts the frozen teacher's tokens of the rest."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from model.blocks import NORM_EPS, Block, Factorisation, Norm, init_weights
from model.grid import GridConfig
from model.positions import sinusoid_table
from model.tubelets import TubeletEmbedding


@dataclass(frozen=True, kw_only=True)
class STJEPAConfig(GridConfig):
    """Size of the student; the defaults are the reference, 21,884,544 parameters in the encoder.

    Attributes:
        dim: width of the encoder, D.
        depth: blocks of the encoder.
        num_joint: how many of them, the last ones, attend over all tokens; the others are factorised.
        heads: attention heads, in the encoder and in the predictor.
        mlp_ratio: hidden width of an MLP as a multiple of its width.
        factorised: how the first blocks split attention over time and space, see `model.blocks.Block`.
        predictor_depth: joint blocks of the predictor.
        predictor_dim: width of the predictor.
    """

    dim: int = 384
    depth: int = 12
    num_joint: int = 4
    heads: int = 6
    mlp_ratio: float = 4.0
    factorised: Factorisation = "twice"
    predictor_depth: int = 4
    predictor_dim: int = 384

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_multiples(("dim", "heads"), ("predictor_dim", "heads"))
        if not 0 <= self.num_joint <= self.depth:
            raise ValueError(f"num_joint={self.num_joint} is not between 0 and depth={self.depth}")
        if self.factorised not in ("twice", "single", "separate"):
            raise ValueError(f"factorised={self.factorised!r}; allowed are 'twice', 'single' and 'separate'")
        if self.predictor_depth < 1 or self.mlp_ratio <= 0:
            raise ValueError("predictor_depth and mlp_ratio have to be positive")


class STJEPAEncoder(nn.Module):
    """A vision transformer over the visible tubes alone: what is masked never enters it."""

    positions: Tensor

    def __init__(self, config: STJEPAConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = TubeletEmbedding(dim=config.dim, tubelet=config.tubelet, patch=config.patch)
        self.register_buffer("positions", _position_grid(config, config.dim), persistent=False)  # [T', S, D]
        num_factorised = config.depth - config.num_joint
        self.blocks = nn.ModuleList(
            Block(
                dim=config.dim,
                num_heads=config.heads,
                mlp_ratio=config.mlp_ratio,
                factorised=config.factorised if index < num_factorised else None,
            )
            for index in range(config.depth)
        )
        self.norm = Norm(config.dim, eps=NORM_EPS)
        self.apply(init_weights)

    def forward(self, clip: Tensor, visible: Tensor | None = None) -> Tensor:
        """Encode the visible part of clips: u8, or normalised floats.

        Args:
            clip: dense video `[B, 3, T, H, W]`, or tubes `[B, S', T', tubelet, patch, patch, 3]` of all positions
                (S' = S) or of the visible ones only, in the order of `visible` (S' = S_v).
            visible: i64 `[B, S_v]`, the spatial positions to encode; None for all.

        Returns:
            Tokens `[B, T', S_v, D]`.

        Raises:
            ValueError: If the grid of `clip` is not the configured one.
        """
        x = self.patch_embed(clip)  # [B, T', S', D]
        num_positions = self.config.num_positions if visible is None else visible.shape[1]
        if x.shape[1] != self.config.num_times or x.shape[2] not in (self.config.num_positions, num_positions):
            raise ValueError(
                f"clip gives a grid of {x.shape[1]} times x {x.shape[2]} positions; the model is configured for "
                f"{self.config.num_times} x {self.config.num_positions}, of which {num_positions} are visible"
            )
        if visible is None:
            x = x + self.positions.to(x.dtype)
        else:
            if x.shape[2] != num_positions:
                x = take_positions(x, visible)
            x = x + self.positions.to(x.dtype)[:, visible].transpose(0, 1)  # [B, T', S_v, D]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]


class STJEPAPredictor(nn.Module):
    """Joint blocks over the whole grid, a learned token standing in for every masked one."""

    positions: Tensor

    def __init__(self, config: STJEPAConfig) -> None:
        super().__init__()
        width = config.predictor_dim
        self.embed = nn.Linear(config.dim, width) if width != config.dim else nn.Identity()
        self.mask_token = nn.Parameter(torch.empty(width))
        self.register_buffer("positions", _position_grid(config, width), persistent=False)  # [T', S, P]
        self.blocks = nn.ModuleList(
            Block(dim=width, num_heads=config.heads, mlp_ratio=config.mlp_ratio) for _ in range(config.predictor_depth)
        )
        self.norm = Norm(width, eps=NORM_EPS)
        self.head = nn.Linear(width, config.target_dim)
        self.apply(init_weights)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Predict the teacher's tokens at the masked positions.

        Attention has no order but what positions give it, so the masked tokens are appended to the visible ones
        rather than put between them.

        Args:
            tokens: `[B, T', S_v, D]` from the encoder.
            visible: i64 `[B, S_v]`, the spatial positions of `tokens`.
            masked: i64 `[B, S_m]`, the spatial positions to predict.

        Returns:
            `[B, T', S_m, target_dim]`, in the order of `masked`.
        """
        x = self._mix(tokens, visible, masked, num_last=masked.shape[1])
        return self.head(self.norm(x))  # type: ignore[no-any-return]

    def full_grid(self, tokens: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Predict every token of the grid, `[B, T', S, target_dim]`; arguments as in `forward`."""
        predicted = self.head(self.norm(self._mix(tokens, visible, masked)))
        places = torch.cat([visible, masked], dim=1).argsort(dim=1)  # where each position stands in the sequence
        return take_positions(predicted, places)

    def _mix(self, tokens: Tensor, visible: Tensor, masked: Tensor, num_last: int | None = None) -> Tensor:
        """Run the blocks over the visible tokens and, behind them, the masked ones: `[B, T', S_v + S_m, P]`.

        The last block may be for the `num_last` last positions only: `[B, T', num_last, P]`.
        """
        seen = self.embed(tokens)  # [B, T', S_v, P]
        positions = self.positions.to(seen.dtype)
        seen = seen + positions[:, visible].transpose(0, 1)
        hidden = self.mask_token.to(seen.dtype) + positions[:, masked].transpose(0, 1)  # [B, T', S_m, P]
        x = torch.cat([seen, hidden], dim=2)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        return last(x, num_last)  # type: ignore[no-any-return]


class STJEPA(nn.Module):
    """The student: encoder and predictor. After training only the encoder is kept."""

    def __init__(self, config: STJEPAConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = STJEPAEncoder(config)
        self.predictor = STJEPAPredictor(config)

    def forward(self, clip: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Predict `[B, T', S_m, target_dim]` from what is visible; arguments as in the encoder and the predictor."""
        return self.predictor(self.encoder(clip, visible), visible, masked)  # type: ignore[no-any-return]

    def full_grid(self, clip: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Predict the teacher's token at every place of the grid: z_S.

        At the masked places this is what `forward` predicts. At the visible ones it is what the predictor makes of
        tokens that the encoder has seen, which no loss was ever taken of.

        Args:
            clip: as in the encoder.
            visible: i64 `[B, S_v]`, the spatial positions that are seen.
            masked: i64 `[B, S_m]`, all the others.

        Returns:
            `[B, N, target_dim]`, N = T' * S; token i is at time t = i // S and position s = i % S, as in the targets.

        Raises:
            ValueError: If `visible` and `masked` are not all positions, or `clip` is not of the configured grid.
        """
        if visible.shape[1] + masked.shape[1] != self.config.num_positions:
            raise ValueError(
                f"{visible.shape[1]} visible and {masked.shape[1]} masked positions are not all of the grid's "
                f"{self.config.num_positions}"
            )
        grid = self.predictor.full_grid(self.encoder(clip, visible), visible, masked)
        return rearrange(grid, "b t s d -> b (t s) d")


def take_positions(grid: Tensor, positions: Tensor) -> Tensor:
    """Pick spatial positions of each sample: `[B, T', S, D]` and i64 `[B, K]` give `[B, T', K, D]`."""
    index = positions[:, None, :, None].expand(-1, grid.shape[1], -1, grid.shape[3])
    return grid.gather(2, index)


def _position_grid(config: STJEPAConfig, dim: int) -> Tensor:
    """The position table as a grid `[T', S, dim]`."""
    return sinusoid_table(config.num_tokens, dim).view(config.num_times, config.num_positions, dim)
