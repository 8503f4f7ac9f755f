"""What an objective may declare about its parts, and what is refused."""

import pytest
import torch
from torch import nn

from model.parts import ParameterGroup, lies_in
from training.objective import REST, Declared, declared


class Parts(nn.Module):
    """An encoder with a buffer, and a head."""

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        self.encoder, self.head = nn.BatchNorm1d(2), nn.Linear(2, 1)
        for name, value in attributes.items():
            setattr(self, name, value)


class Grouped(Parts):
    """Parts that learn at rates of their own."""

    def __init__(self, groups: dict[str, ParameterGroup]) -> None:
        super().__init__()
        self.groups = groups

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        return self.groups


def group(*prefixes: str, **rate: float) -> ParameterGroup:
    return ParameterGroup(prefixes=prefixes, **rate)


def test_an_objective_that_declares_nothing_trains_and_keeps_everything_at_one_rate() -> None:
    found = declared(Parts())
    assert found == Declared()
    for name in ("encoder.weight", "encoder.running_mean", "head.bias"):
        assert (found.is_frozen(name), found.is_kept(name), found.group_of(name)) == (False, True, REST)


def test_what_is_frozen_is_kept_unless_a_trainable_part_is_named() -> None:
    found = declared(Parts(frozen=("encoder",)))
    assert (found.is_frozen("encoder.running_mean"), found.is_kept("encoder.running_mean")) == (True, True)
    assert not found.is_frozen("head.weight")


def test_what_a_checkpoint_does_not_hold_is_frozen() -> None:
    found = declared(Parts(trainable=("head",)))
    assert (found.is_frozen("encoder.weight"), found.is_kept("encoder.weight")) == (True, False)
    assert (found.is_frozen("head.weight"), found.is_kept("head.weight")) == (False, True)


def test_a_prefix_is_a_whole_name_of_a_part() -> None:
    assert lies_in("head.weight", ("head",))
    assert lies_in("head", ("head",))
    assert not lies_in("header.weight", ("head",))


@pytest.mark.parametrize("attributes", [{"frozen": ("enc",)}, {"trainable": ("head", "encoder.nothing")}])
def test_a_prefix_that_names_nothing_is_refused_with_what_there_is(attributes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"of which Parts has nothing; it has encoder, head"):
        declared(Parts(**attributes))
    with pytest.raises(ValueError, match=r"the parameter group slow names 'hed'"):
        declared(Grouped({"slow": group("hed")}))


def test_a_prefix_without_its_tuple_is_refused() -> None:
    with pytest.raises(ValueError, match=r"frozen is the text 'encoder'; it has to be a tuple"):
        declared(Parts(frozen="encoder"))


def test_a_parameter_of_two_groups_is_refused() -> None:
    with pytest.raises(ValueError, match=r"groups a and b both take head\.weight"):
        declared(Grouped({"a": group("head"), "b": group("head.weight", lr=1e-5)}))


def test_an_objective_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter to train: all 4 are frozen"):
        declared(Parts(frozen=("encoder", "head")))
    with pytest.raises(ValueError, match="no parameter to train"):
        declared(Parts().requires_grad_(False))


def test_a_group_has_a_rate_of_its_own_or_a_multiple_of_the_runs() -> None:
    assert group("head").scale_of(3e-4) == 1.0
    assert group("head", scale=0.1).scale_of(3e-4) == 0.1
    assert group("head", lr=3e-5).scale_of(3e-4) == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"lr=0\.1 and scale=2"):
        group("head", lr=0.1, scale=2)
    for rate in ({"lr": -1.0}, {"scale": torch.inf}):
        with pytest.raises(ValueError, match="finite and not negative"):
            group("head", **rate)
