"""The laws every distillation loss keeps, run over the table, and those of each paper."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd import losses
from edgekd.losses import LOSSES, RELATES_SAMPLES, input_names, options_of, relates_samples
from edgekd.task import accuracy, balanced_accuracy, cross_entropy

DICE = torch.Generator().manual_seed(0)
OPTIONS: dict[str, dict[str, Any]] = {
    "soft_target": {"temperature": 4.0},
    "decoupled": {"temperature": 2.0, "alpha": 1.0, "beta": 8.0},
    "dist": {"temperature": 2.0, "inter_weight": 0.7, "intra_weight": 1.3},
    "standardized_soft_target": {"temperature": 2.0},
    "contrastive": {"temperature": 0.5},
    "huber": {"delta": 0.5},
}
MAPS = ("attention_transfer", "hierarchical_context", "masked_generative")
POSITIVE = ("pseudo_label", "contrastive")
"""Losses that are never zero; their minima have tests of their own."""


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=DICE, dtype=torch.float64).to(dtype)


def shape_of(name: str, batch: int = 8) -> tuple[int, ...]:
    if name == "attention_relation":
        return (batch, 2, 5, 3)
    return (batch, 3, 6, 6) if name in MAPS else (batch, 5)


def given(name: str, draw: Callable[[str], Tensor]) -> list[Tensor]:
    """The tensors that the loss compares: `draw` makes those of a role; labels are 0, 1, 2, ..."""
    batch = len(draw("student"))
    return [
        torch.arange(batch) % 5 if key == "labels" else draw(key.partition("_")[0])
        for key in input_names(LOSSES[name])
    ]


def value(name: str, tensors: list[Tensor], **more: Any) -> Tensor:
    return LOSSES[name](*tensors, **{**OPTIONS.get(name, {}), **more})


ALL = pytest.mark.parametrize("name", LOSSES)


@ALL
def test_a_loss_is_zero_where_student_and_teacher_are_equal_and_more_elsewhere(name: str) -> None:
    z = normal(*shape_of(name))
    equal = float(value(name, given(name, lambda _: z.clone())))
    apart = float(value(name, given(name, lambda _: normal(*shape_of(name)))))
    if name in POSITIVE:
        assert 0 < equal < apart
    else:
        assert equal == pytest.approx(0, abs=1e-12)
        assert apart > 1e-4


@ALL
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    tensors = [
        each.requires_grad_() if each.is_floating_point() else each
        for each in given(name, lambda _: normal(*shape_of(name)))
    ]
    value(name, tensors).backward()
    for key, tensor in zip(input_names(LOSSES[name]), tensors, strict=True):
        if key.startswith("teacher"):
            assert tensor.grad is None
        elif key.startswith("student"):
            assert tensor.grad is not None
            assert float(tensor.grad.abs().sum()) > 0


SORTS: dict[str, Callable[[tuple[int, ...]], Tensor]] = {
    "extreme": lambda shape: 120.0 * (normal(*shape) > 0).double() - 60.0,
    "constant": lambda shape: torch.full(shape, 3.0, dtype=torch.float64),
    "zero": lambda shape: torch.zeros(shape, dtype=torch.float64),
    "duplicates": lambda shape: normal(1, *shape[1:]).repeat(shape[0], *[1] * (len(shape) - 1)),
}


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_loss_and_its_gradient_are_finite_and_in_float32(name: str, dtype: torch.dtype) -> None:
    for student, teacher in itertools.product(SORTS.values(), SORTS.values()):
        sorts = {"student": student, "teacher": teacher}
        tensors = given(name, lambda role, by=sorts: by[role](shape_of(name)).to(dtype))  # type: ignore[misc]
        ours = [
            each.requires_grad_()
            for key, each in zip(input_names(LOSSES[name]), tensors, strict=True)
            if key.startswith("student")
        ]
        loss = value(name, tensors)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.ndim == 0
        assert torch.isfinite(loss)
        for tensor in ours:
            assert tensor.grad is not None
            assert torch.isfinite(tensor.grad).all()
            assert float(tensor.grad.abs().max()) < 1e6


@ALL
def test_a_batch_of_one_is_finite(name: str) -> None:
    tensors = given(name, lambda _: normal(*shape_of(name, 1), dtype=torch.float32))
    tensors[0].requires_grad_()
    loss = value(name, tensors)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(tensors[0].grad).all()  # type: ignore[arg-type]


@ALL
def test_a_loss_is_computed_in_float32_under_autocast(name: str) -> None:
    tensors = given(name, lambda _: normal(*shape_of(name), dtype=torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = value(name, tensors)
    assert torch.equal(inside, value(name, tensors))


@ALL
def test_gradients_are_right(name: str) -> None:
    shape = {"attention_relation": (3, 2, 4, 3)}.get(name, (3, 2, 5, 5) if name in MAPS else (4, 5))
    tensors = given(name, lambda _: normal(*shape))
    keys = input_names(LOSSES[name])
    ours = [i for i, key in enumerate(keys) if key.startswith("student")]

    def of_ours(*found: Tensor) -> Tensor:
        placed = list(tensors)
        for i, tensor in zip(ours, found, strict=True):
            placed[i] = tensor
        return value(name, placed)

    assert torch.autograd.gradcheck(
        of_ours, [tensors[i].requires_grad_() for i in ours], fast_mode=True
    )


@ALL
def test_memory_layout_does_not_matter(name: str) -> None:
    tensors = given(name, lambda _: normal(*shape_of(name)))
    laid_out = [
        each.transpose(0, -1).contiguous().transpose(0, -1) if each.ndim > 1 else each
        for each in tensors
    ]
    assert float(value(name, laid_out)) == pytest.approx(float(value(name, tensors)), rel=1e-12)


@ALL
def test_a_loss_relates_samples_if_a_batch_is_not_the_mean_of_its_halves(name: str) -> None:
    tensors = given(name, lambda _: normal(*shape_of(name)))
    whole = float(value(name, tensors))
    # Five and three: weighed by their sizes.
    parts = [[each[:5] for each in tensors], [each[5:] for each in tensors]]
    mean = sum(float(value(name, part)) * len(part[0]) for part in parts) / 8
    related = abs(whole - mean) > 1e-9 * abs(whole)
    assert related == relates_samples(name)
    assert related == (name in RELATES_SAMPLES)


# ---- each equals a short numpy version ------------------------------------------------------


def softmax(z: np.ndarray, axis: int = 1) -> np.ndarray:
    e = np.exp(z - z.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(-1)


def np_soft(s: np.ndarray, t: np.ndarray, temperature: float = 4.0) -> float:
    return float(temperature**2 * kl(softmax(t / temperature), softmax(s / temperature)).mean())


def np_decoupled(s: np.ndarray, t: np.ndarray, y: np.ndarray) -> float:
    total = 0.0
    for a, b, c in zip(softmax(s / 2), softmax(t / 2), y, strict=True):
        binary = kl(np.array([b[c], 1 - b[c]]), np.array([a[c], 1 - a[c]]))
        rest_a, rest_b = (np.delete(p, c) / (1 - p[c]) for p in (a, b))
        total += 1.0 * binary + 8.0 * kl(rest_b, rest_a)
    return 4.0 * total / len(s)


def np_dist(s: np.ndarray, t: np.ndarray) -> float:
    p, q = softmax(s / 2), softmax(t / 2)

    def one_minus(a: np.ndarray, b: np.ndarray) -> float:
        pairs = zip(a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True), strict=True)
        found = [x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for x, y in pairs]
        return 1.0 - float(np.mean(found))

    return 4.0 * (0.7 * one_minus(p, q) + 1.3 * one_minus(p.T, q.T))


def np_standardized(s: np.ndarray, t: np.ndarray) -> float:
    a, b = ((z - z.mean(1, keepdims=True)) / z.std(1, ddof=1, keepdims=True) for z in (s, t))
    return np_soft(a, b, 2.0)


def np_attention(s: np.ndarray, t: np.ndarray) -> float:
    a, b = (unit((f**2).mean(1).reshape(len(f), -1)) for f in (s, t))
    return float(((a - b) ** 2).mean())


def smooth_l1(d: np.ndarray) -> float:
    return float(np.where(abs(d) < 1, 0.5 * d**2, abs(d) - 0.5).mean())


def np_distance(s: np.ndarray, t: np.ndarray) -> float:
    a, b = (np.linalg.norm(f[:, None] - f[None], axis=2) for f in (s, t))
    return smooth_l1(a / a[a > 0].mean() - b / b[b > 0].mean())


def np_angle(s: np.ndarray, t: np.ndarray) -> float:
    def cosines(f: np.ndarray) -> np.ndarray:
        found = np.zeros((len(f),) * 3)
        for i in range(len(f)):
            for j in range(len(f)):
                for k in range(len(f)):
                    if i not in (j, k):
                        a, b = f[j] - f[i], f[k] - f[i]
                        found[i, j, k] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        return found

    return smooth_l1(cosines(s) - cosines(t))


def np_similarity(s: np.ndarray, t: np.ndarray) -> float:
    return float(((unit(s @ s.T) - unit(t @ t.T)) ** 2).sum() / len(s) ** 2)


def np_probabilistic(s: np.ndarray, t: np.ndarray) -> float:
    def probabilities(f: np.ndarray) -> np.ndarray:
        similar = (unit(f) @ unit(f).T + 1) / 2
        return similar / similar.sum(1, keepdims=True)

    p, q = probabilities(t), probabilities(s)
    return float((p * np.log((p + 1e-7) / (q + 1e-7))).mean())


def np_context(s: np.ndarray, t: np.ndarray) -> float:
    def pooled(f: np.ndarray, size: int) -> np.ndarray:
        edges = [(i * 6 // size, -(-(i + 1) * 6 // size)) for i in range(size)]
        rows = [[f[:, :, a:b, c:d].mean((2, 3)) for c, d in edges] for a, b in edges]
        return np.array(rows)

    terms = [((s - t) ** 2).mean()] + [
        ((pooled(s, n) - pooled(t, n)) ** 2).mean() for n in (4, 2, 1)
    ]
    weights = np.array([1, 1 / 2, 1 / 4, 1 / 8])
    return float(weights @ np.array(terms) / weights.sum())


def np_contrastive(s: np.ndarray, t: np.ndarray) -> float:
    return float(-np.log(np.diag(softmax(unit(s) @ unit(t).T / 0.5))).mean())


def np_relation(q: np.ndarray, k: np.ndarray, tq: np.ndarray, tk: np.ndarray) -> float:
    ours, theirs = (softmax(a @ b.swapaxes(2, 3) / 3**0.5, 3) for a, b in ((q, k), (tq, tk)))
    return float(kl(theirs, ours).mean())


REFERENCES: dict[str, Callable[..., float]] = {
    "soft_target": np_soft,
    "decoupled": np_decoupled,
    "dist": np_dist,
    "standardized_soft_target": np_standardized,
    "hint": lambda s, t: ((s - t) ** 2).mean(),
    "attention_transfer": np_attention,
    "relational_distance": np_distance,
    "relational_angle": np_angle,
    "similarity_preserving": np_similarity,
    "probabilistic_transfer": np_probabilistic,
    "hierarchical_context": np_context,
    "contrastive": np_contrastive,
    "attention_relation": np_relation,
    "cosine_embedding": lambda s, t: (1 - (unit(s) * unit(t)).sum(-1)).mean(),
    "masked_generative": lambda s, t: ((s - t) ** 2).sum() / len(s),
    "pseudo_label": lambda s, t: -np.log(softmax(s)[np.arange(len(s)), t.argmax(1)]).mean(),
    "mean_squared": lambda s, t: ((s - t) ** 2).mean(),
    "huber": lambda s, t: np.where(
        abs(s - t) < 0.5, 0.5 * (s - t) ** 2, 0.5 * (abs(s - t) - 0.25)
    ).mean(),
}


@ALL
def test_a_loss_is_the_formula_of_its_paper(name: str) -> None:
    for _ in range(3):
        tensors = given(name, lambda _: normal(*shape_of(name)))
        expected = REFERENCES[name](*(tensor.numpy() for tensor in tensors))
        assert float(value(name, tensors)) == pytest.approx(float(expected), rel=1e-9)


# ---- the invariances of the papers, and what is not invariant -------------------------------


def change(name: str, map_: Callable[[Tensor], Tensor], s: Tensor, t: Tensor) -> float:
    """The relative change of the loss when the student's tensor goes through `map_`."""
    before, after = value(name, [s, t]), value(name, [map_(s), t])
    return abs(float(after / before) - 1.0)


def per_sample(ndim: int, low: float = 0.5) -> Tensor:
    return torch.rand(8, *[1] * (ndim - 1), generator=DICE, dtype=torch.float64) + low


def rotation(width: int) -> Tensor:
    return torch.linalg.qr(normal(width, width))[0]


LOGITS = normal(8, 5), normal(8, 5)
FEATURES = normal(8, 5), normal(8, 5)
MAP = normal(8, 3, 6, 6), normal(8, 3, 6, 6)
SHIFT, SCALE = per_sample(2), per_sample(2)
MAP_SCALE = per_sample(4)
TURN = rotation(5)


@pytest.mark.parametrize(
    ("name", "map_", "tensors"),
    [
        ("soft_target", lambda z: z + SHIFT, LOGITS),
        ("dist", lambda z: z + SHIFT, LOGITS),
        ("standardized_soft_target", lambda z: SCALE * z + SHIFT, LOGITS),
        ("attention_transfer", lambda f: MAP_SCALE * f, MAP),
        ("attention_transfer", lambda f: -f[:, [2, 0, 1]], MAP),
        ("relational_distance", lambda f: 3.0 * f @ TURN + 7.0, FEATURES),
        ("relational_angle", lambda f: 3.0 * f @ TURN + 7.0, FEATURES),
        ("similarity_preserving", lambda f: 3.0 * f @ TURN, FEATURES),
        ("probabilistic_transfer", lambda f: SCALE * (f @ TURN), FEATURES),
        ("contrastive", lambda f: SCALE * f, FEATURES),
        ("cosine_embedding", lambda f: SCALE * f, FEATURES),
    ],
)
def test_what_a_loss_does_not_see(
    name: str, map_: Callable[[Tensor], Tensor], tensors: tuple[Tensor, Tensor]
) -> None:
    assert change(name, map_, *tensors) < 1e-6


@pytest.mark.parametrize(
    ("name", "map_", "tensors"),
    [
        ("soft_target", lambda z: 2.0 * z, LOGITS),
        ("dist", lambda z: SCALE * z + SHIFT, LOGITS),
        ("relational_distance", lambda f: SCALE * f, FEATURES),
        ("relational_angle", lambda f: SCALE * f, FEATURES),
        ("similarity_preserving", lambda f: f + 7.0, FEATURES),
        ("probabilistic_transfer", lambda f: f + 7.0, FEATURES),
        ("hint", lambda f: f @ TURN, FEATURES),
        ("attention_transfer", lambda f: f + 7.0, MAP),
    ],
)
def test_what_a_loss_does_see(
    name: str, map_: Callable[[Tensor], Tensor], tensors: tuple[Tensor, Tensor]
) -> None:
    assert change(name, map_, *tensors) > 1e-3


@pytest.mark.parametrize("name", sorted(RELATES_SAMPLES - {"contrastive"}))
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    s, t = normal(8, 5), normal(8, 5)
    order = torch.randperm(8, generator=DICE)
    expected = float(value(name, [s, t]))
    assert float(value(name, [s[order], t[order]])) == pytest.approx(expected, rel=1e-12)


def test_a_sample_wise_affine_of_the_teacher_s_logits_is_no_loss_when_standardized() -> None:
    t = normal(8, 5)
    s = SCALE * t + SHIFT
    assert float(losses.standardized_soft_target(s, t, temperature=2.0)) < 1e-12
    assert float(losses.soft_target(s, t, temperature=2.0)) > 1e-3


def test_decoupled_is_the_soft_target_taken_apart() -> None:
    """KD = TCKD + (1 - p_t(y)) NCKD for each sample; of two classes, NCKD is zero."""
    s, t, y = normal(1, 5), normal(1, 5), torch.tensor([2])
    options = {"temperature": 1.0}
    binary = losses.decoupled(s, t, y, alpha=1.0, beta=0.0, **options)
    rest = losses.decoupled(s, t, y, alpha=0.0, beta=1.0, **options)
    left = 1.0 - torch.softmax(t, 1)[0, 2]
    expected = float(losses.soft_target(s, t, temperature=1.0))
    assert float(binary + left * rest) == pytest.approx(expected, rel=1e-12)
    s, t = normal(6, 2), normal(6, 2)
    two = torch.arange(6) % 2
    assert float(losses.decoupled(s, t, two, alpha=0.0, beta=1.0, **options)) == pytest.approx(
        0, abs=1e-12
    )
    whole = float(losses.decoupled(s, t, two, alpha=1.0, beta=8.0, **options))
    assert whole == pytest.approx(float(losses.soft_target(s, t, temperature=1.0)), rel=1e-12)


@pytest.mark.parametrize("margin", [24.0, 105.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_decoupled_stands_a_label_that_is_far_ahead(margin: float, dtype: torch.dtype) -> None:
    """Peers take the logarithm of an underflowed sum: NaN from a margin of 105 on."""
    s = torch.tensor([[margin, 0.0, 1.0]], dtype=dtype).requires_grad_()
    t = torch.tensor([[0.0, 0.0, 2.0]], dtype=dtype)
    y = torch.tensor([0])
    options = {"temperature": 1.0, "alpha": 1.0, "beta": 8.0}
    loss = losses.decoupled(s, t, y, **options)
    loss.backward()
    exact = losses.decoupled(s.detach().double(), t.double(), y, **options)
    assert float(loss.detach()) == pytest.approx(float(exact), rel=1e-5)
    assert torch.isfinite(s.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [100.0, 1e3, 1e4])
@pytest.mark.parametrize("name", ["relational_distance", "relational_angle"])
def test_relations_keep_their_digits_where_features_have_an_offset(
    name: str, offset: float
) -> None:
    """Peers lose half the value at an offset of 1,000, and all of it at 10,000."""
    s, t = normal(16, 32), normal(16, 32)
    exact = float(value(name, [s, t]))
    # What float32 can hold of features with this offset is what the loss may not lose more of.
    s32, t32 = (s + offset).float(), (t + offset).float()
    held = float(value(name, [s32.double(), t32.double()]))
    found = float(value(name, [s32, t32]))
    assert found == pytest.approx(held, rel=1e-5)
    assert found == pytest.approx(exact, rel=2e-2)


def test_the_gradient_of_soft_target_keeps_its_size_when_the_temperature_grows() -> None:
    student, teacher = normal(8, 5).requires_grad_(), normal(8, 5)
    sizes = []
    for temperature in (20.0, 200.0):
        loss = losses.soft_target(student, teacher, temperature=temperature)
        (gradient,) = torch.autograd.grad(loss, student)
        sizes.append(float(gradient.norm()))
    # For large T the gradient tends to (s - t, centred) / (N C): the T^2 factor is there.
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def test_the_gradient_of_soft_target_is_the_difference_of_probabilities() -> None:
    student, teacher = normal(8, 5).requires_grad_(), normal(8, 5)
    losses.soft_target(student, teacher, temperature=3.0).backward()
    apart = torch.softmax(student / 3, 1) - torch.softmax(teacher / 3, 1)
    assert student.grad is not None
    assert torch.allclose(student.grad, 3 * apart.detach() / 8, atol=1e-12)


def test_the_minimum_of_contrastive_at_equality_is_what_its_docstring_says() -> None:
    f = normal(8, 5)
    similar = torch.nn.functional.normalize(f) @ torch.nn.functional.normalize(f).T
    expected = torch.logsumexp((similar - 1.0) / 0.5, 1).mean()
    found = losses.contrastive(f, f.clone(), temperature=0.5)
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_pseudo_label_is_the_log_probability_of_the_teacher_s_class() -> None:
    z = normal(8, 5)
    expected = -torch.log_softmax(z, 1).max(1).values.mean()
    assert float(losses.pseudo_label(z, z.clone())) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_contexts_as_large_as_the_map_are_left_out(size: int) -> None:
    s, t = normal(2, 3, size), normal(2, 3, size)
    assert torch.isfinite(losses.hierarchical_context(s, t))
    if size == 2:
        pooled = ((s - t).mean(2) ** 2).mean()
        expected = (((s - t) ** 2).mean() + 0.5 * pooled) / 1.5
        assert float(losses.hierarchical_context(s, t)) == pytest.approx(float(expected))


def test_maps_of_different_sizes_are_pooled_to_the_smaller() -> None:
    s, t = normal(4, 3, 8, 8), normal(4, 7, 4, 4)
    found = float(losses.attention_transfer(s, t))
    a = torch.nn.functional.avg_pool2d(s.square().mean(1)[:, None], 2).flatten(1)
    a, b = (torch.nn.functional.normalize(x) for x in (a, t.square().mean(1).flatten(1)))
    assert found == pytest.approx(float((a - b).square().mean()), rel=1e-12)


def test_features_split_into_heads() -> None:
    q, k, tq, tk = (normal(2, 4, 5, 3) for _ in range(4))
    flat = [each.transpose(1, 2).flatten(2) for each in (q, k, tq, tk)]
    expected = float(losses.attention_relation(q, k, tq, tk))
    assert float(losses.attention_relation(*flat, heads=4)) == pytest.approx(expected, rel=1e-12)
    wider = [normal(2, 4, 5, 8) for _ in range(2)]
    assert torch.isfinite(losses.attention_relation(q, k, *wider))


# ---- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["soft_target", "decoupled", "dist", "standardized_soft_target", "contrastive"]
)
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(name: str, temperature: float) -> None:
    tensors = given(name, lambda _: normal(8, 5))
    with pytest.raises(ValueError, match="temperature must be positive"):
        value(name, tensors, temperature=temperature)


@ALL
def test_what_does_not_fit_is_refused_with_both_shapes(name: str) -> None:
    shape = shape_of(name)
    other = (shape[0] + 1, *shape[1:])
    tensors = given(name, lambda role: normal(*(shape if role == "student" else other)))
    with pytest.raises(ValueError, match=r"differ|not .*samples"):
        value(name, tensors)


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    labels = torch.full((8,), label)
    with pytest.raises(ValueError, match="labels must be from 0 to 4"):
        value("decoupled", [normal(8, 5), normal(8, 5), labels])


def test_a_loss_says_what_it_compares_and_what_its_options_are() -> None:
    assert input_names(losses.soft_target) == ["student_logits", "teacher_logits"]
    assert options_of(losses.soft_target) == {"temperature": True}
    assert options_of(losses.decoupled) == {"temperature": True, "alpha": True, "beta": True}
    assert options_of(losses.dist) == {
        "temperature": False,
        "inter_weight": False,
        "intra_weight": False,
    }
    assert options_of(cross_entropy) == {"label_smoothing": False}


def test_label_smoothing_is_a_hard_loss_against_smoothed_labels() -> None:
    z, y = normal(8, 5, dtype=torch.float32), torch.arange(8) % 5
    target = 0.9 * torch.nn.functional.one_hot(y, 5) + 0.1 / 5
    expected = -(target * torch.log_softmax(z, 1)).sum(1).mean()
    assert float(cross_entropy(z, y, label_smoothing=0.1)) == pytest.approx(float(expected))


def test_metrics_count_what_they_say() -> None:
    z = torch.eye(3)[[0, 0, 0, 1]]
    labels = torch.tensor([0, 0, 0, 2])
    assert accuracy(z, labels) == 0.75
    assert balanced_accuracy(z, labels) == 0.5
