"""The ST-JEPA objective: what it scores, and that it scores the same however the batch was read."""

import pytest
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from model.st_jepa import STJEPA
from tests.datasets import SIZE, make_dataset
from tests.runs import MODEL, make_loader
from tools.systems.st_jepa import STJEPAObjective, STJEPAObjectiveConfig

Batch = dict[str, Tensor]


@pytest.fixture(scope="module")
def objective() -> STJEPAObjective:
    torch.manual_seed(0)
    return STJEPAObjective(STJEPA(MODEL))


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Batch, Batch]:
    """The same first batch, read in part and read whole."""
    dataset = make_dataset(tmp_path_factory.mktemp("data"), num_samples=9)
    gathered, whole = (dict(next(iter(make_loader(dataset, gather=gather)))) for gather in (True, False))
    return gathered, whole


def test_the_loss_is_one_minus_the_cosine_averaged_over_the_masked_tokens(
    objective: STJEPAObjective, batches: tuple[Batch, Batch]
) -> None:
    batch, _ = batches
    prediction = objective.student(batch["clip"], batch["visible"], batch["masked"])
    loss = objective(batch)["loss"]
    assert loss.dtype == torch.float32
    for b in range(8):
        target = batch["target"][b].float().transpose(0, 1)  # [T', S_m, D]
        cosines = [F.cosine_similarity(prediction[b, t, s], target[t, s], dim=0) for t in range(2) for s in range(12)]
        torch.testing.assert_close(loss[b], 1 - torch.stack(cosines).mean())


def test_a_batch_read_whole_scores_like_one_of_which_only_the_mask_was_read(
    objective: STJEPAObjective, batches: tuple[Batch, Batch]
) -> None:
    gathered, whole = batches
    assert gathered["clip"].shape[1] == 4
    assert whole["clip"].shape[1] == 16
    torch.testing.assert_close(objective(gathered)["loss"], objective(whole)["loss"])


def test_the_frames_layout_scores_like_the_tubes_layout(
    objective: STJEPAObjective, batches: tuple[Batch, Batch]
) -> None:
    _, tubes = batches
    clip = rearrange(tubes["clip"], "b (y x) t k p q c -> b (t k) (y p) (x q) c", y=SIZE // MODEL.patch)
    target = rearrange(tubes["target"], "b s t d -> b (t s) d")
    torch.testing.assert_close(objective({**tubes, "clip": clip, "target": target})["loss"], objective(tubes)["loss"])


def test_targets_at_visible_positions_do_not_matter(objective: STJEPAObjective, batches: tuple[Batch, Batch]) -> None:
    _, whole = batches
    changed = whole["target"].clone()
    for b in range(8):
        changed[b, whole["visible"][b]] = 1e4
    assert torch.equal(objective({**whole, "target": changed})["loss"], objective(whole)["loss"])


def test_a_perfect_prediction_costs_nothing(objective: STJEPAObjective, batches: tuple[Batch, Batch]) -> None:
    batch, _ = batches
    with torch.no_grad():
        prediction = objective.student(batch["clip"], batch["visible"], batch["masked"])
        loss = objective({**batch, "target": 3 * prediction.transpose(1, 2)})["loss"]
    torch.testing.assert_close(loss, torch.zeros(8), atol=1e-6, rtol=0)


def test_a_quarantined_sample_of_zeros_has_a_finite_loss_and_gradient(
    objective: STJEPAObjective, batches: tuple[Batch, Batch]
) -> None:
    batch = {**batches[0]}
    batch["target"] = torch.zeros_like(batch["target"])
    objective.zero_grad()
    objective(batch)["loss"].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5])
def test_a_mask_that_hides_nothing_or_everything_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="mask_ratio"):
        STJEPAObjectiveConfig(mask_ratio=ratio)


def test_every_parameter_of_the_student_is_trained(objective: STJEPAObjective, batches: tuple[Batch, Batch]) -> None:
    objective.zero_grad()
    objective(batches[0])["loss"].mean().backward()
    assert [name for name, p in objective.named_parameters() if p.grad is None] == []
