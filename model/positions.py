"""Fixed sine-cosine position tables."""

import numpy as np
import torch
from torch import Tensor


def sinusoid_table(num_positions: int, dim: int) -> Tensor:
    """Sine-cosine positions as in VideoMAE (`get_sinusoid_encoding_table`) and "Attention is all you need".

    Tokens are numbered in one line, t*S + s, so time and space share the table.

    Returns:
        f32 `[num_positions, dim]`: sine in the even columns, cosine in the odd ones.
    """
    columns = np.arange(dim)
    angles = np.arange(num_positions)[:, None] / np.power(10000.0, 2 * (columns // 2) / dim)
    table = np.where(columns % 2 == 0, np.sin(angles), np.cos(angles))
    return torch.from_numpy(table.astype(np.float32))
