"""The foveated VLM: what each mode looks at, what a row costs whatever stands beside it, and who learns from it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.foveated import MODES, FoveatedVLM, Mode
from model.generate import generate
from tests.tiny_vlm import END, VOCABULARY, alone, random_batch, tiny_vlm

LENGTHS = [(3, 5), (1, 9), (6, 2), (0, 4)]
CLOSE: Any = {"rtol": 0.0, "atol": 5e-6}


def costs(vlm: FoveatedVLM, batch: dict[str, Tensor], mode: Mode = "coarse_fine") -> Tensor:
    names = ("frames", "frames_length", "tokens", "tokens_length")
    return vlm(*(batch[name] for name in names), mode=mode)  # type: ignore[no-any-return]


def by_definition(vlm: FoveatedVLM, batch: dict[str, Tensor], mode: Mode) -> Tensor:
    """What one row costs, token by token, spelled out with the whole sequence anew at each step."""
    llm: Any = vlm.llm
    num_frames = int(batch["frames_length"][0])
    coarse: list[Tensor] = []
    shown: list[Tensor] = []
    for time in range(num_frames):
        seen = vlm.see(batch["frames"][:, time : time + 1], torch.ones(1, dtype=torch.int64))
        assert seen is not None
        coarse.append(vlm.read(seen.pictures, vlm.q_static[None]))
        before = shown if mode == "autoregressive" else coarse[:time]
        query = vlm.q_init[None]
        if before:
            embedded = torch.stack(before, dim=1)
            query = vlm.llm_to_query(llm.model(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, -1])
        shown.append(coarse[-1] if mode == "coarse_only" else vlm.read(seen.pictures, query))
    words = llm.get_input_embeddings()(batch["tokens"].long())
    embedded = torch.cat([torch.stack(shown, dim=1), words], dim=1) if shown else words
    labels = torch.cat([torch.full((1, num_frames), -100), batch["tokens"].long()], dim=1)
    logits = llm(inputs_embeds=embedded, use_cache=False).logits
    found = F.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="none")[max(num_frames - 1, 0) :]
    return found if num_frames else F.pad(found, (1, 0))  # nothing precedes the first word


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_a_packed_batch_costs_what_each_sample_costs_by_definition(mode: Mode, deep: bool) -> None:
    vlm, batch = tiny_vlm(deep_query=deep).eval(), random_batch(LENGTHS, extra=(2, 3))
    found = costs(vlm, batch, mode)
    for row, (_, num_tokens) in enumerate(LENGTHS):
        torch.testing.assert_close(found[row, :num_tokens], by_definition(vlm, alone(batch, row), mode), **CLOSE)
        assert not found[row, num_tokens:].any()


def test_the_loss_that_transformers_takes_of_the_labels_is_the_same() -> None:
    vlm, batch = tiny_vlm().eval(), random_batch([(3, 5)])
    seen = vlm.see(batch["frames"], batch["frames_length"])
    assert seen is not None
    words: Any = vlm.llm
    embedded = vlm.rows(seen, vlm.show(seen, "coarse_fine"), batch["tokens"])
    labels = torch.cat([torch.full((1, 3), -100), batch["tokens"].long()], dim=1)
    expected = words(inputs_embeds=embedded, labels=labels).loss
    torch.testing.assert_close(costs(vlm, batch).mean(), expected, **CLOSE)


@pytest.mark.parametrize("mode", MODES)
def test_padding_changes_nothing(mode: Mode) -> None:
    vlm = tiny_vlm().eval()
    tight, loose = (costs(vlm, random_batch(LENGTHS, extra=extra), mode) for extra in ((0, 0), (5, 7)))
    torch.testing.assert_close(loose[:, : tight.shape[1]], tight, **CLOSE)


def test_of_one_frame_fine_is_autoregressive_and_not_coarse() -> None:
    vlm, batch = tiny_vlm().eval(), random_batch([(1, 6), (1, 3)])
    fine, stepwise, coarse = (costs(vlm, batch, mode) for mode in ("coarse_fine", "autoregressive", "coarse_only"))
    torch.testing.assert_close(fine, stepwise, **CLOSE)
    assert float((fine - coarse).detach().abs().max()) > 1e-3


def test_a_constant_query_makes_fine_autoregressive_however_many_frames_there_are() -> None:
    vlm, batch = tiny_vlm().eval(), random_batch([(n, 4) for n in (1, 2, 5, 8)])
    differ = (costs(vlm, batch) - costs(vlm, batch, "autoregressive")).detach().abs().amax(dim=1)
    assert float(differ[0]) < 5e-6
    assert float(differ[3]) > 1e-4  # they do differ where the queries follow from what was seen
    torch.nn.init.zeros_(vlm.llm_to_query.weight)
    torch.testing.assert_close(costs(vlm, batch), costs(vlm, batch, "autoregressive"), **CLOSE)


def test_the_first_word_behind_the_frames_is_scored_and_one_that_nothing_precedes_is_not() -> None:
    vlm, batch = tiny_vlm().eval(), random_batch([(2, 3), (0, 3)])
    for mode in MODES:
        found = costs(vlm, batch, mode) > 0
        assert found.tolist() == [[True] * 3, [False, True, True]]


def test_only_wanted_tokens_are_scored_and_cost_what_they_cost_among_all() -> None:
    vlm, batch = tiny_vlm().eval(), random_batch(LENGTHS)
    names = ("frames", "frames_length", "tokens", "tokens_length")
    wanted = batch["answer"].bool()
    some = vlm(*(batch[name] for name in names), wanted=wanted)
    torch.testing.assert_close(some, costs(vlm, batch).where(wanted, 0), **CLOSE)


def test_text_alone_needs_no_frames() -> None:
    vlm, batch = tiny_vlm().eval(), random_batch([(0, 4), (0, 7)])
    text = vlm(None, None, batch["tokens"], batch["tokens_length"])
    torch.testing.assert_close(text, costs(vlm, batch), **CLOSE)


@pytest.mark.parametrize("lengths", [[(0, 0), (0, 0)], [(3, 0), (0, 1)], [(0, 0), (4, 0)]])
def test_rows_without_anything_to_score_cost_nothing_and_have_gradients_of_zero(lengths: list[tuple[int, int]]) -> None:
    vlm, batch = tiny_vlm(), random_batch(lengths)
    found = costs(vlm, batch)
    assert found.shape == batch["tokens"].shape
    assert not found.any()
    if found.numel():
        found.sum().backward()  # type: ignore[no-untyped-call]
        assert not any(p.grad.any() for p in vlm.parameters() if p.grad is not None)


def gradients(vlm: FoveatedVLM, loss: Tensor) -> dict[str, bool]:
    """Whether each parameter's gradient is there and not zero."""
    vlm.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad is not None and bool(p.grad.any()) for name, p in vlm.named_parameters()}


def test_a_video_teaches_both_queries_both_heads_both_models_and_nothing_teaches_the_mask_token() -> None:
    vlm = tiny_vlm()
    found = gradients(vlm, costs(vlm, random_batch(LENGTHS)).sum())
    assert {name for name, there in found.items() if not there} == {"dinov2.embeddings.mask_token"}
    assert {"q_static", "q_init", "query_proj.weight", "dino_to_llm.weight", "llm_to_query.weight"} <= set(found)


def test_text_teaches_the_language_model_alone() -> None:
    vlm, batch = tiny_vlm(), random_batch([(0, 4), (0, 7)])
    found = gradients(vlm, vlm(None, None, batch["tokens"], batch["tokens_length"]).sum())
    assert {name for name, there in found.items() if there} == {n for n in found if n.startswith("llm.")}
    assert all(p.grad is None for name, p in vlm.named_parameters() if not name.startswith("llm."))


def test_dinov2_passes_over_each_real_frame_once() -> None:
    vlm = tiny_vlm().eval()
    passed: list[int] = []
    vlm.dinov2.register_forward_pre_hook(
        lambda module, args, kwargs: passed.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    for mode in MODES:
        costs(vlm, random_batch(LENGTHS, extra=(4, 0)), mode)
    assert passed == [10, 10, 10]


def test_the_cache_goes_on_where_the_frames_ended() -> None:
    """Words behind the walk's own cache cost what they cost behind the frames' tokens in one piece."""
    from model.language import last_hidden, logits, new_cache, word_embeddings

    vlm, batch = tiny_vlm().eval(), random_batch([(5, 6)])
    seen = vlm.see(batch["frames"], batch["frames_length"])
    assert seen is not None
    shown, cache = vlm.show(seen, "autoregressive"), new_cache(vlm.llm)
    hidden = [last_hidden(vlm.llm, token[None, None], cache) for token in shown]
    words = last_hidden(vlm.llm, word_embeddings(vlm.llm)(batch["tokens"].long()), cache)
    before = torch.cat([hidden[-1], words[:, :-1]], dim=1)
    expected = F.cross_entropy(logits(vlm.llm, before)[0], batch["tokens"][0].long(), reduction="none")
    torch.testing.assert_close(costs(vlm, batch, "autoregressive")[0], expected, **CLOSE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_frames", [0, 1, 4])
def test_what_is_written_is_what_the_whole_model_finds_likeliest_at_every_step(mode: Mode, num_frames: int) -> None:
    vlm, batch = tiny_vlm().eval(), random_batch([(num_frames, 3)])
    frames = batch["frames"][0] if num_frames else None
    prompt = batch["tokens"][0]
    written = list(generate(vlm, frames, prompt, max_new_tokens=6, mode=mode))
    assert 0 < len(written) <= 6
    for number, token in enumerate([*written, *([END] if len(written) < 6 else [])]):
        so_far = torch.cat([prompt, torch.tensor(written[:number], dtype=prompt.dtype)]).expand(VOCABULARY, -1)
        tokens = torch.cat([so_far, torch.arange(VOCABULARY)[:, None]], dim=1)  # every word that could come next
        found = vlm(
            None if frames is None else frames.expand(VOCABULARY, -1, -1, -1, -1),
            torch.full((VOCABULARY,), num_frames),
            tokens,
            torch.full((VOCABULARY,), tokens.shape[1]),
            mode=mode,
        )
        assert int(found[:, -1].argmin()) == token


def test_writing_needs_something_to_go_on_from() -> None:
    with pytest.raises(ValueError, match="neither a frame nor a word"):
        list(generate(tiny_vlm(), None, torch.zeros(0, dtype=torch.int64), max_new_tokens=3))


@pytest.mark.parametrize("make", [lambda: random_batch(LENGTHS), lambda: random_batch([(0, 5)])])
def test_recomputing_activations_gives_the_same_gradients(make: Callable[[], dict[str, Tensor]]) -> None:
    found = []
    for recompute in (False, True):
        vlm = tiny_vlm().train()
        if recompute:
            vlm.recompute_activations()
        costs(vlm, make()).sum().backward()  # type: ignore[no-untyped-call]
        found.append({name: p.grad for name, p in vlm.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


def kept_numbers(recompute: bool) -> int:
    """How many numbers a forward pass keeps for the way back."""
    vlm, kept = tiny_vlm().train(), 0
    if recompute:
        vlm.recompute_activations()

    def keep(value: Tensor) -> Tensor:
        nonlocal kept
        kept += value.numel()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        costs(vlm, random_batch([(6, 40)] * 4)).sum()
    return kept


def test_recomputing_keeps_less_for_the_way_back() -> None:
    assert kept_numbers(recompute=True) < 0.6 * kept_numbers(recompute=False)


@pytest.mark.parametrize("mode", MODES)
def test_in_bfloat16_the_costs_are_f32_and_near(mode: Mode) -> None:
    vlm, batch = tiny_vlm().eval(), random_batch(LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        found = costs(vlm, batch, mode)
    assert found.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in vlm.parameters())
    torch.testing.assert_close(found, costs(vlm, batch, mode), rtol=0.1, atol=0.2)


def test_a_frame_is_as_large_as_a_word_if_the_scale_is_automatic() -> None:
    vlm = tiny_vlm()
    words: Any = vlm.llm
    assert float(vlm.visual_scale) == pytest.approx(float(words.get_input_embeddings().weight.detach().std()))
    assert "visual_scale" in vlm.state_dict()


def test_a_scale_far_from_that_of_words_is_refused() -> None:
    with pytest.raises(ValueError, match=r"visual_scale is 5.0.*standard deviation of 0.\d+.*auto"):
        tiny_vlm(visual_scale=5.0)
