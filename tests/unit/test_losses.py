from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.losses import LOSSES, input_names, options_of, soft_target
from edgekd.task import accuracy, balanced_accuracy, cross_entropy

DICE = torch.Generator().manual_seed(0)
OPTIONS = {"soft_target": {"temperature": 4.0}}


def logits(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=DICE, dtype=dtype)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_zero_when_the_student_equals_the_teacher(name: str) -> None:
    z = logits(8, 5)
    assert float(LOSSES[name](z, z.clone(), **OPTIONS[name])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    student, teacher = logits(8, 5).requires_grad_(), logits(8, 5).requires_grad_()
    LOSSES[name](student, teacher, **OPTIONS[name]).backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_loss_is_finite_at_extreme_logits_and_computed_in_float32(
    name: str, dtype: torch.dtype
) -> None:
    student = torch.tensor([[120.0, -120.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype).requires_grad_()
    teacher = torch.tensor([[-120.0, 120.0, 0.0], [50.0, 0.0, -50.0]], dtype=dtype)
    loss = LOSSES[name](student, teacher, **OPTIONS[name])
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_computed_in_float32_under_autocast(name: str) -> None:
    student, teacher = logits(8, 5, dtype=torch.float32), logits(8, 5, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = LOSSES[name](student, teacher, **OPTIONS[name])
    assert torch.equal(inside, LOSSES[name](student, teacher, **OPTIONS[name]))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_right(name: str) -> None:
    teacher = logits(4, 3)
    student = logits(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, teacher, **OPTIONS[name]), (student,))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_target_is_the_formula_of_the_paper(temperature: float) -> None:
    student, teacher = logits(16, 7), logits(16, 7)

    def softened(z: Tensor) -> np.ndarray:
        e = np.exp(z.numpy() / temperature)
        return e / e.sum(1, keepdims=True)

    p, q = softened(teacher), softened(student)
    expected = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    found = float(soft_target(student, teacher, temperature=temperature))
    assert found == pytest.approx(expected, rel=1e-9)


def test_soft_target_ignores_a_shift_of_a_sample_s_logits_but_not_their_scale() -> None:
    student, teacher = logits(8, 5), logits(8, 5)
    base = soft_target(student, teacher, temperature=2.0)
    shifted = soft_target(student + logits(8, 1), teacher + logits(8, 1), temperature=2.0)
    assert float(shifted) == pytest.approx(float(base), rel=1e-9)
    assert abs(float(soft_target(2 * student, teacher, temperature=2.0) - base)) > 1e-3


def test_the_gradient_of_soft_target_keeps_its_size_when_the_temperature_grows() -> None:
    student, teacher = logits(8, 5).requires_grad_(), logits(8, 5)
    sizes = []
    for temperature in (20.0, 200.0):
        loss = soft_target(student, teacher, temperature=temperature)
        (gradient,) = torch.autograd.grad(loss, student)
        sizes.append(float(gradient.norm()))
    # For large T the gradient tends to (s - t, centred) / (N C): the T^2 factor is there.
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        soft_target(logits(2, 3), logits(2, 3), temperature=temperature)


def test_logits_of_different_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        soft_target(logits(2, 3), logits(2, 4), temperature=1.0)


def test_a_loss_says_what_it_compares_and_what_its_options_are() -> None:
    assert input_names(soft_target) == ["student_logits", "teacher_logits"]
    assert options_of(soft_target) == {"temperature": True}
    assert options_of(cross_entropy) == {"label_smoothing": False}


def test_metrics_count_what_they_say() -> None:
    z = torch.eye(3)[[0, 0, 0, 1]]
    labels = torch.tensor([0, 0, 0, 2])
    assert accuracy(z, labels) == 0.75
    assert balanced_accuracy(z, labels) == 0.5
