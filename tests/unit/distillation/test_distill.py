"""Distillation by inner layers, several teachers, the student's own exits; what is refused."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import edgekd
from edgekd.data import Data
from edgekd.distillation.teachers import combined
from edgekd.errors import RecipeError
from edgekd.network.network import Network, as_network, weights_digest
from edgekd.recipe.training import Distill
from edgekd.training import loop
from edgekd.training.options import Record, TrainingOptions


def config(*losses: dict[str, Any], **more: Any) -> Distill:
    training = {"epochs": 2, "batch_size": 16, "optimizer": {"learning_rate": 1e-2}}
    return Distill.model_validate({**training, "losses": list(losses), **more})


def images(count: int = 64) -> Data:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (count,), generator=generator)
    x = torch.randn(count, 1, 6, 6, generator=generator) + labels[:, None, None, None]
    dataset = TensorDataset(x, labels)
    return Data(dataset, dataset, dataset)


class Convolutional(nn.Module):
    """Two blocks and a head; it also gives the logits of its first block, an early exit."""

    def __init__(self, width: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.exit = nn.Linear(width, 3)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.block1(x)
        early = self.exit(x.mean((2, 3)))
        return {"logits": self.head(self.block2(x).mean((2, 3))), "early": early}


def network(width: int, seed: int = 0) -> Network:
    return as_network(Convolutional(width, seed), torch.zeros(1, 1, 6, 6))


HINT = {"method": "hint", "student_layer": "block2", "teacher_layer": "block2"}
HARD = {"method": "hard"}
SOFT = {"method": "soft_target", "temperature": 2.0}


def test_a_projector_is_trained_and_dropped() -> None:
    teacher, student = network(8), network(4, seed=1)
    before = weights_digest(teacher.module)
    history: list[Record] = []
    taught = edgekd.distill(
        teacher,
        student,
        images(),
        config(HARD, HINT, epochs=8),
        options=TrainingOptions(history=history),
    )
    assert type(taught.module) is Convolutional, "the student is not left in a wrapper"
    assert taught.module.state_dict().keys() == student.module.state_dict().keys()
    assert not any(part._forward_hooks for part in taught.module.modules())
    assert not any(part._forward_hooks for part in teacher.module.modules())
    assert weights_digest(teacher.module) == before
    assert history[-1]["loss_hint"] < history[0]["loss_hint"]


def test_of_equal_shapes_there_is_no_projector_and_the_value_is_that_of_the_tensors() -> None:
    """With a learning rate of nearly zero, the recorded loss is that of the untouched student."""
    teacher, student, data = network(4), network(4, seed=1), images()
    history: list[Record] = []
    still = config(HINT, epochs=1, optimizer={"learning_rate": 1e-12, "name": "sgd"})
    edgekd.distill(teacher, student, data, still, options=TrainingOptions(history=history))
    x = data.train[:][0]  # type: ignore[index]
    features = [
        each.module.block2(each.module.block1(x))  # type: ignore[union-attr, operator]
        for each in (student, teacher)
    ]
    expected = float((features[0] - features[1]).detach().square().mean())
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("key", ["student_layer", "teacher_layer"])
def test_a_layer_that_does_not_exist_is_reported_with_the_nearest(key: str) -> None:
    with pytest.raises(RecipeError, match=r"no output or layer 'blok2'") as caught:
        edgekd.distill(network(8), network(4), images(), config({**HINT, key: "blok2"}))
    fault = caught.value.faults[0]
    assert fault.at == f"distill.losses[0].{key}"
    assert "block2" in fault.fix


def test_a_loss_of_features_needs_its_layers() -> None:
    with pytest.raises(RecipeError, match="hint needs the layers of the student to compare"):
        edgekd.distill(network(8), network(4), images(), config({"method": "hint"}))


def test_without_a_projector_features_of_another_shape_are_refused() -> None:
    with pytest.raises(RecipeError, match="hint does not accept the tensors it compares") as caught:
        edgekd.distill(network(8), network(4), images(), config({**HINT, "projector": "none"}))
    assert "(4, 4, 6, 6)" in caught.value.faults[0].got
    assert "(4, 8, 6, 6)" in caught.value.faults[0].got


def test_every_fault_of_the_losses_is_reported_at_once() -> None:
    losses = [{**HINT, "student_layer": "a"}, {**HINT, "teacher_layer": "b"}]
    with pytest.raises(RecipeError) as caught:
        edgekd.distill(network(8), network(4), images(), config(*losses))
    assert [fault.at for fault in caught.value.faults] == [
        "distill.losses[0].student_layer",
        "distill.losses[1].teacher_layer",
    ]


def test_a_student_learns_from_its_own_deepest_exit() -> None:
    own = {**SOFT, "source": "student", "student_layer": "early", "teacher_layer": "logits"}
    early_hard = {**HARD, "student_layer": "early", "weight": 1e-6}
    history: list[Record] = []
    student = network(6)
    edgekd.distill(
        None,
        student,
        images(),
        config(HARD, own, early_hard),
        options=TrainingOptions(history=history),
    )
    assert history[0].keys() >= {"loss_hard", "loss_soft_target", "loss_hard_2"}
    alone: list[Record] = []
    taught = edgekd.distill(
        None, student, images(), config(own, epochs=1), options=TrainingOptions(history=alone)
    )
    # No gradient reaches the exit that teaches.
    assert torch.equal(taught.module.head.weight, student.module.head.weight)  # type: ignore
    assert not torch.equal(taught.module.exit.weight, student.module.exit.weight)  # type: ignore


def test_several_teachers_are_combined_by_the_mean_of_their_probabilities() -> None:
    a, b = torch.randn(5, 3), torch.randn(5, 3)
    both = combined([a, b], [1.0, 3.0], "weighted", None)
    assert torch.allclose(both.exp(), 0.25 * a.softmax(1) + 0.75 * b.softmax(1), atol=1e-6)


def test_the_best_teacher_of_a_sample_is_the_one_that_knows_its_label() -> None:
    sure, unsure = torch.tensor([[9.0, 0.0, 0.0]] * 3), torch.tensor([[0.0, 1.0, 0.0]] * 3)
    labels = torch.tensor([0, 1])
    best = combined([sure, unsure], [1.0, 1.0], "best", labels)
    assert torch.equal(best, torch.stack([sure[0], unsure[1], sure[2]])), "the surer, unlabelled"


def test_two_teachers_that_are_one_are_one() -> None:
    teacher, student, data = network(8), network(4, seed=1), images()
    one = edgekd.distill(teacher, student, data, config(SOFT))
    two = edgekd.distill([(teacher, 1.0), (teacher, 2.0)], student, data, config(SOFT))
    for ours, theirs in zip(
        one.module.state_dict().values(), two.module.state_dict().values(), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_teachers_of_different_classes_are_refused() -> None:
    other = as_network(nn.Sequential(nn.Flatten(), nn.Linear(36, 5)), torch.zeros(1, 1, 6, 6))
    with pytest.raises(RecipeError, match="teachers' outputs differ in shape"):
        edgekd.distill([(network(8), 1.0), (other, 1.0)], network(4), images(), config(SOFT))


def test_labels_that_are_no_classes_are_reported_before_any_work() -> None:
    x = torch.randn(8, 1, 6, 6)
    dataset = TensorDataset(x, torch.tensor([0, 1, 2, 7, 0, 1, 9, 0]))
    with pytest.raises(RecipeError, match="2 labels are not classes") as caught:
        edgekd.distill(network(8), network(4), Data(dataset, dataset, dataset), config(HARD))
    assert "label 7 of sample 3" in caught.value.faults[0].got


def test_a_teacher_of_other_inputs_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a + b).flatten(1)[:, :3]

    two = as_network(Two(), (torch.zeros(1, 1, 6, 6), torch.zeros(1, 1, 6, 6)))
    with pytest.raises(RecipeError, match="teacher's inputs differ from the student's"):
        edgekd.distill(two, network(4), images(), config(SOFT))


def test_what_is_asked_of_the_teacher_at_every_step_is_said() -> None:
    said: list[str] = []
    edgekd.distill(
        network(8),
        network(4),
        images(),
        config(HINT, epochs=1),
        options=TrainingOptions(log=said.append),
    )
    assert "the teacher runs at every step: losses need its block2" in said


def test_channels_last_and_compile_train_as_well() -> None:
    teacher, student, data = network(8), network(4, seed=1), images()
    plain, laid_out, compiled = ([], [], [])  # type: list[Record], list[Record], list[Record]
    edgekd.distill(
        teacher, student, data, config(HARD, SOFT), options=TrainingOptions(history=plain)
    )
    taught = edgekd.distill(
        teacher,
        student,
        data,
        config(HARD, SOFT, channels_last=True),
        options=TrainingOptions(history=laid_out),
    )
    edgekd.distill(
        teacher,
        student,
        data,
        config(HARD, SOFT, compile=True),
        options=TrainingOptions(history=compiled),
    )
    assert laid_out[-1]["loss"] == pytest.approx(plain[-1]["loss"], rel=1e-3)
    assert compiled[-1]["loss"] == pytest.approx(plain[-1]["loss"], rel=1e-3)
    weight = taught.module.block2[0].weight  # type: ignore[union-attr, index]
    assert weight.is_contiguous(), "the layout is ours to undo"


def test_without_a_compiler_it_is_trained_uncompiled_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if torch.cuda.is_available():
        pytest.skip("an accelerator's kernels need no C++ compiler")
    from torch._inductor import config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("/no/such/compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    torch._dynamo.reset()
    said: list[str] = []
    plain, uncompiled = list[Record](), list[Record]()
    teacher, student, data = network(8), network(5), images()
    edgekd.distill(teacher, student, data, config(SOFT), options=TrainingOptions(history=plain))
    edgekd.distill(
        teacher,
        student,
        data,
        config(SOFT, compile=True),
        options=TrainingOptions(log=said.append, history=uncompiled),
    )
    assert any("not compiled, training continues" in line for line in said), said
    assert uncompiled == plain


def test_float16_on_a_cpu_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is an accelerator")
    with pytest.raises(RecipeError, match="A CPU cannot train in float16"):
        edgekd.distill(network(8), network(4), images(), config(SOFT, precision="fp16"))


def test_bfloat16_trains() -> None:
    history: list[Record] = []
    edgekd.distill(
        network(8),
        network(4),
        images(),
        config(SOFT, precision="bf16"),
        options=TrainingOptions(history=history),
    )
    assert history[1]["loss"] < history[0]["loss"]


KILLED = """
    import os, signal, sys, torch
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from tests.unit.distillation import test_distill as here

    here.loop.CHECKPOINT_EVERY_S, here.loop.CHECK_EVERY = 0.0, 1
    steps = 0

    class Mortal(torch.nn.Module):
        def forward(self, x):
            global steps
            steps += 1
            if steps == {die}:
                os.kill(os.getpid(), signal.SIGKILL)
            return x

    student = here.with_dropout()
    student.module.append(Mortal())
    taught = here.edgekd.distill(
        here.network(8), student, here.images(), here.config(here.HARD, here.RESUMED),
        options=here.TrainingOptions(checkpoint=Path({folder!r}) / "checkpoint.pt"),
    )
    print(here.weights_digest(taught.module))
"""
RESUMED = {**HINT, "student_layer": "0", "weight": 0.1}


def with_dropout() -> Network:
    torch.manual_seed(5)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(144, 3),
    )
    return as_network(module, torch.zeros(1, 1, 6, 6))


def killed_at(die: int, folder: Path) -> subprocess.CompletedProcess[str]:
    tests = str(Path(__file__).parents[3])
    code = textwrap.dedent(KILLED).format(tests=tests, die=die, folder=str(folder))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("die", [5, 9])
def test_after_kill_9_at_any_step_the_weights_are_the_same_bit_for_bit(
    die: int, tmp_path: Path
) -> None:
    """Within the first epoch and at the edge of the second, with dropout and a projector."""
    killed = killed_at(die, tmp_path)
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "checkpoint.pt").exists()
    went_on = killed_at(0, tmp_path)
    assert went_on.returncode == 0, went_on.stderr
    whole = edgekd.distill(network(8), _with_mortal(), images(), config(HARD, RESUMED))
    assert went_on.stdout.strip() == weights_digest(whole.module)


def _with_mortal() -> Network:
    made = with_dropout()
    assert isinstance(made.module, nn.Sequential)
    made.module.append(nn.Identity())
    return made


def test_a_mid_epoch_checkpoint_keeps_the_records_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
    whole: list[Record] = []
    edgekd.distill(
        network(8), network(4, 1), images(), config(HARD), options=TrainingOptions(history=whole)
    )
    plain = config(HARD)
    calls = 0
    advance = loop._Loop.advance

    def mortal(self: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        return advance(self, batch)

    monkeypatch.setattr(loop._Loop, "advance", mortal)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        edgekd.distill(
            network(8), network(4, 1), images(), plain, options=TrainingOptions(checkpoint=path)
        )
    history: list[Record] = []
    edgekd.distill(
        network(8),
        network(4, 1),
        images(),
        plain,
        options=TrainingOptions(checkpoint=path, history=history),
    )
    assert history == whole


def test_a_loss_of_no_labelled_sample_in_a_batch_is_zero() -> None:
    data = images(40)
    few = TensorDataset(*(column[:2] for column in data.train.tensors))  # type: ignore
    rest = TensorDataset(data.train.tensors[0][2:])  # type: ignore
    history: list[Record] = []
    edgekd.distill(
        network(8),
        network(4),
        replace(data, train=few, unlabeled=rest),
        config(HARD, SOFT, batch_size=5),
        options=TrainingOptions(history=history),
    )
    assert history[0]["loss_hard"] > 0
