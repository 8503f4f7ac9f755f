"""The students' fast step equals the plain one: loss, gradients, and what it spares."""

import copy
import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from model.blocks import Attention, Block, Norm, attend_long, attend_short, use_short_form
from model.salt import SALT
from model.st_jepa import STJEPA
from model.tubelets import TubeletEmbedding
from tests.plain_step import agreement, clips, plain_embedding, written_plainly
from tests.runs import MODEL, SALT_MODEL
from tools.systems.salt import SALTObjective, SALTObjectiveConfig
from tools.systems.st_jepa import STJEPAObjective

STUDENTS = {
    **{f"st_jepa {mode}": dataclasses.replace(MODEL, factorised=mode) for mode in ("twice", "single", "separate")},
    **{f"salt {mode}": dataclasses.replace(SALT_MODEL, mode=mode) for mode in ("dense", "jepa")},
}
GRID = (MODEL.num_times, MODEL.tubelet, MODEL.patch, MODEL.patch)


def objective_of(name: str) -> STJEPAObjective | SALTObjective:
    torch.manual_seed(0)
    config: Any = STUDENTS[name]
    if name.startswith("st_jepa"):
        made: STJEPAObjective | SALTObjective = STJEPAObjective(STJEPA(config))
    else:
        made = SALTObjective(SALT(config), SALTObjectiveConfig(mask="tube"))
    for parameter in made.parameters():  # fresh weights are so small that blocks hardly count
        parameter.data += 0.05 * torch.randn_like(parameter)
    return made


def batch_of(batch: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    order = torch.rand(batch, MODEL.num_positions, generator=generator).argsort(1)
    visible, masked = order[:, : MODEL.num_positions // 4], order[:, MODEL.num_positions // 4 :]
    target = torch.randn(batch, masked.shape[1], MODEL.num_times, MODEL.target_dim, generator=generator).half()
    return {
        "clip": clips(batch, visible.shape[1], GRID, generator),
        "target": target,
        "visible": visible,
        "masked": masked,
    }


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize(("dtype", "loss_tolerance", "cosine"), [(None, 1e-5, 0.999999), (torch.bfloat16, 1e-3, 0.999)])
def test_the_step_has_the_loss_and_the_gradients_of_the_plain_one(
    name: str, dtype: torch.dtype | None, loss_tolerance: float, cosine: float
) -> None:
    apart, found = agreement(objective_of(name), batch_of(), dtype)
    assert apart < loss_tolerance
    assert found > cosine


@pytest.mark.parametrize("name", STUDENTS)
def test_the_last_block_of_the_masked_tokens_alone_predicts_what_the_whole_one_does(name: str) -> None:
    objective, batch = objective_of(name), batch_of()
    with torch.no_grad():
        fast = objective.student(batch["clip"], *_places(objective, batch))
        with written_plainly(objective.student):
            torch.testing.assert_close(objective.student(batch["clip"], *_places(objective, batch)), fast)


def _places(objective: STJEPAObjective | SALTObjective, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    if isinstance(objective, SALTObjective):
        return objective._tokens(batch["visible"]), objective._tokens(batch["masked"])
    return batch["visible"], batch["masked"]


@pytest.mark.parametrize("name", ["st_jepa twice", "salt jepa", "salt dense"])
def test_the_last_block_does_no_arithmetic_for_tokens_that_nobody_asks_for(name: str) -> None:
    objective, batch = objective_of(name), batch_of()
    use_short_form(objective, "sdpa")  # which the counter treats as it does the plain one's
    with torch.no_grad(), FlopCounterMode(display=False) as fast:
        objective(batch)
    with torch.no_grad(), FlopCounterMode(display=False) as plain, written_plainly(objective.student):
        objective(batch)
    wide = objective.student.predictor if name != "salt dense" else objective.student.encoder
    block = next(module for module in reversed(list(wide.modules())) if isinstance(module, Block))
    dim, seen = block.mlp.fc1.in_features, batch["visible"].shape[1] * MODEL.num_times * 4  # tokens of the batch
    linear = dim * dim + block.attn.proj.weight.numel() + block.mlp.fc1.weight.numel() + block.mlp.fc2.weight.numel()
    assert plain.get_total_flops() - fast.get_total_flops() >= 2 * seen * linear


@pytest.mark.parametrize("num_last", [1, 5, 7])
def test_a_joint_block_for_some_positions_equals_the_whole_one_there_in_both_directions(num_last: int) -> None:
    torch.manual_seed(0)
    block, x = Block(dim=24, num_heads=3, mlp_ratio=4), torch.randn(2, 3, 7, 24, requires_grad=True)
    whole, some = block(x)[:, :, -num_last:], block(x, num_last)
    torch.testing.assert_close(some, whole)
    seed = torch.randn_like(whole)
    inputs = [x, *block.parameters()]
    torch.testing.assert_close(torch.autograd.grad(some, inputs, seed), torch.autograd.grad(whole, inputs, seed))


@pytest.mark.parametrize("length", [1, 2, 8, 16])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)])
def test_attention_over_a_handful_of_tokens_equals_torchs_own_in_both_directions(
    length: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(length)
    q, k, v = (torch.randn(5, 3, length, 64, dtype=dtype, requires_grad=True) for _ in range(3))
    seed = torch.randn(5, 3, length, 64, dtype=dtype)
    ours, theirs = attend_short(q, k, v), attend_long(q, k, v)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (q, k, v), seed),
        torch.autograd.grad(theirs, (q, k, v), seed),
        rtol=4 * tolerance,
        atol=4 * tolerance,
    )


def test_its_softmax_is_f32_where_scores_are_too_far_apart_for_bf16() -> None:
    q = torch.full((1, 2, 64), 8.0, dtype=torch.bfloat16)
    k = torch.stack([torch.full((64,), 8.0), torch.full((64,), 7.9375)]).bfloat16()[None]
    v = torch.tensor([[[1.0], [0.0]]]).bfloat16()
    expected = torch.tensor([8 * 64 * 8.0, 8 * 64 * 7.9375]).div(8).softmax(0)[0]
    assert float(attend_short(q, k, v)[0, 0, 0]) == pytest.approx(float(expected), abs=0.01)


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and the elements that copies write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.copied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, out = func.overloadpacket.__name__, func(*args, **(kwargs or {}))
        self.calls[name] += 1
        if name in ("clone", "_to_copy", "copy_", "stack", "cat"):
            self.copied += (args[0] if name == "copy_" else out).numel()
        return out


def test_the_backward_pass_of_attention_stacks_the_gradients_of_qkv_once_and_copies_them_no_further() -> None:
    attention, x = Attention(24, 3), torch.randn(2, 4, 5, 24, requires_grad=True)
    out = attention(x, "joint").sum()
    with Copies() as seen:
        out.backward()
    assert seen.copied <= 4 * x.numel()  # q, k and v, and one for the gradient of the sum that expands


def test_norms_keep_the_dtype_of_the_tokens_and_their_statistics_in_f32() -> None:
    norm, x = Norm(64), 200 + torch.randn(8, 64)
    tokens = x.bfloat16()
    nn.init.normal_(norm.weight)
    with torch.autocast("cpu", torch.bfloat16), Copies() as seen:
        narrow = norm(tokens)
    assert narrow.dtype == torch.bfloat16
    assert seen.copied == 2 * 64  # its weight and bias; tokens are not taken to f32 and back
    torch.testing.assert_close(narrow.float(), norm(tokens.float()), rtol=2e-2, atol=2e-2)
    assert torch.equal(norm(x), nn.LayerNorm.forward(norm, x))


@pytest.mark.parametrize("name", STUDENTS)
def test_tokens_between_blocks_are_in_the_dtype_of_autocast(name: str) -> None:
    objective, found = objective_of(name), set[torch.dtype]()
    for block in (module for module in objective.modules() if isinstance(module, Block)):
        block.register_forward_hook(lambda module, given, out: found.add(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        objective(batch_of())
    assert found == {torch.bfloat16}


@pytest.mark.parametrize("layout", ["video", "tubes"])
def test_bytes_give_the_tokens_and_the_gradients_of_normalised_pixels(layout: str) -> None:
    torch.manual_seed(0)
    embedding = TubeletEmbedding(dim=24, tubelet=2, patch=8)
    assert embedding.proj.bias is not None
    nn.init.normal_(embedding.proj.bias)
    tubes = clips(2, 16, (2, 2, 8, 8), torch.Generator().manual_seed(0))
    if layout == "video":
        video = rearrange(tubes, "b (y x) t k p q c -> b c (t k) (y p) (x q)", y=4)
        mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        ours, plain = embedding(video), embedding((video.float() / 255 - mean) / std)
    else:
        ours, plain = embedding(tubes), plain_embedding(embedding, tubes)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    seed, parameters = torch.randn_like(plain), list(embedding.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(ours, parameters, seed), torch.autograd.grad(plain, parameters, seed), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_the_statistics_are_no_part_of_a_checkpoint_and_no_parameter() -> None:
    assert set(TubeletEmbedding(dim=24, tubelet=2, patch=8).state_dict()) == {"proj.weight", "proj.bias"}


def test_both_forms_of_attention_over_time_train_alike() -> None:
    objective, batch = objective_of("st_jepa twice"), batch_of()
    other = copy.deepcopy(objective)
    use_short_form(other, "sdpa")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        loss = objective(batch)["loss"]
    assert counter.get_flop_counts()["Global"].get(torch.ops.aten.bmm)
    torch.testing.assert_close(other(batch)["loss"], loss)
