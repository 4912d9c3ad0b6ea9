"""The laws every distillation loss keeps, run over the table, and those of the losses of logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgekd import losses
from edgekd.errors import RecipeError
from edgekd.losses import (
    LOSSES,
    RELATES_SAMPLES,
    find_loss,
    input_names,
    loss_names,
    options_of,
    relates_samples,
)
from edgekd.tasks import accuracy, balanced_accuracy, cross_entropy

GENERATOR = torch.Generator()
OPTIONS: dict[str, dict[str, Any]] = {
    "soft_target": {"temperature": 4.0},
    "decoupled": {"temperature": 2.0, "alpha": 1.0, "beta": 8.0},
    "dist": {"temperature": 2.0, "inter_weight": 0.7, "intra_weight": 1.3},
    "standardized_soft_target": {"temperature": 2.0},
    "contrastive": {"temperature": 0.5},
    "huber": {"delta": 0.5},
}
MAPS = ("attention_transfer", "hierarchical_context", "masked_generative")


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> Iterator[None]:
    """Each test draws the same numbers; tensors this small take longest on several threads."""
    GENERATOR.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64).to(dtype)


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


def least_pseudo_label(z: Tensor) -> float:
    return float(-torch.softmax(z, 1).amax(1).log().mean())


def least_contrastive(f: Tensor) -> float:
    similar = torch.nn.functional.normalize(f) @ torch.nn.functional.normalize(f).T
    return float(((similar - 1.0) / 0.5).exp().sum(1).log().mean())


def least_dist(z: Tensor) -> float:
    rows = torch.softmax(z / 2.0, 1)
    inter, intra = (
        (1e-8 / ((p - p.mean(1, keepdim=True)).square().sum(1) + 1e-8)).mean()
        for p in (rows, rows.T)
    )
    return 4.0 * float(0.7 * inter + 1.3 * intra)


AT_EQUALITY: dict[str, Callable[[Tensor], float]] = {
    "pseudo_label": least_pseudo_label,
    "contrastive": least_contrastive,
    "dist": least_dist,
}
"""What the docstrings say of losses that are not zero at a student equal to the teacher."""


@ALL
def test_a_loss_is_least_where_student_and_teacher_are_equal(name: str) -> None:
    z = normal(*shape_of(name))
    equal = float(value(name, given(name, lambda _: z.clone())))
    documented = AT_EQUALITY[name](z) if name in AT_EQUALITY else 0.0
    assert equal == pytest.approx(documented, rel=1e-9, abs=1e-12)
    for _ in range(3):
        drawn = given(name, lambda role: z if role == "teacher" else normal(*shape_of(name)))
        assert float(value(name, drawn)) > equal + 1e-4


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


def repeated(shape: tuple[int, ...]) -> Tensor:
    return normal(1, *shape[1:]).repeat(shape[0], *[1] * (len(shape) - 1))


SORTS: dict[str, Callable[[tuple[int, ...]], Tensor]] = {
    "usual": lambda shape: normal(*shape),
    # 6e4 is close to the largest number of fp16, 65504.
    "extreme": lambda shape: 6e4 * normal(*shape).sign(),
    "saturated": lambda shape: 60.0 * normal(*shape).sign(),
    "constant": lambda shape: torch.full(shape, 3.0, dtype=torch.float64),
    "zero": lambda shape: torch.zeros(shape, dtype=torch.float64),
    "duplicates": repeated,
    "all but duplicates": lambda shape: repeated(shape) * (1.0 + 1e-7 * normal(*shape)),
}


@ALL
@pytest.mark.parametrize("sort", SORTS)
def test_a_loss_and_its_gradient_are_finite_and_in_float32(name: str, sort: str) -> None:
    others = SORTS if sort == "usual" else ["usual", "zero", sort]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for other in others:
            sorts = {"student": SORTS[sort], "teacher": SORTS[other]}
            tensors = given(name, lambda role, by=sorts: by[role](shape_of(name)).to(dtype))  # type: ignore[misc]  # noqa: B023
            ours = [
                each.requires_grad_()
                for key, each in zip(input_names(LOSSES[name]), tensors, strict=True)
                if key.startswith("student")
            ]
            # No gradient is larger than what is given, but by options and sums over a sample.
            largest = max(float(each.detach().abs().max()) for each in tensors)
            loss = value(name, tensors)
            loss.backward()
            assert (loss.dtype, loss.ndim) == (torch.float32, 0)
            assert torch.isfinite(loss)
            for tensor in ours:
                assert tensor.grad is not None
                assert torch.isfinite(tensor.grad).all()
                assert float(tensor.grad.abs().max()) < 10 * max(1.0, largest)


@ALL
def test_a_batch_of_one_is_finite(name: str) -> None:
    tensors = given(name, lambda _: normal(*shape_of(name, 1), dtype=torch.float32))
    tensors[0].requires_grad_()
    loss = value(name, tensors)
    loss.backward()
    assert torch.isfinite(loss)
    assert tensors[0].grad is not None
    assert torch.isfinite(tensors[0].grad).all()


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_digit(name: str, dtype: torch.dtype) -> None:
    tensors = given(name, lambda _: normal(*shape_of(name), dtype=torch.float32))
    with torch.autocast("cpu", dtype=dtype):
        inside = value(name, tensors)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, value(name, tensors))


@ALL
def test_half_inputs_lose_nothing_beyond_their_own_rounding(name: str) -> None:
    halves = given(name, lambda _: normal(*shape_of(name), dtype=torch.float16))
    exact = [each.double() if each.is_floating_point() else each for each in halves]
    assert float(value(name, halves)) == pytest.approx(float(value(name, exact)), rel=1e-4)


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
    assert not laid_out[0].is_contiguous()
    assert float(value(name, laid_out)) == pytest.approx(float(value(name, tensors)), rel=1e-12)


class Waits(TorchDispatchMode):
    """Notes each operation that makes an accelerator wait: a number read, or a constant made."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = ("_local_scalar_dense", "is_nonzero", "lift_fresh", "nonzero", "_unique2")
        if func.overloadpacket.__name__ in waits:
            self.found.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


# On the CPU, decoupled looks at its labels; on an accelerator it does not.
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "decoupled"])
def test_a_loss_does_not_wait_for_the_device(name: str) -> None:
    tensors = given(name, lambda _: normal(*shape_of(name)).requires_grad_())
    with Waits() as waits:
        value(name, tensors).backward()
    assert waits.found == []


def test_what_makes_a_device_wait_is_noticed() -> None:
    for waiting in (lambda: float(torch.ones(1)), lambda: torch.ones(1).new_tensor(2.0)):
        with Waits() as waits:
            waiting()
        assert waits.found


@ALL
def test_a_loss_relates_samples_if_a_batch_is_not_the_mean_of_its_parts(name: str) -> None:
    tensors = given(name, lambda _: normal(*shape_of(name)))
    whole = float(value(name, tensors))
    # Five and three: weighed by their sizes.
    parts = [[each[:5] for each in tensors], [each[5:] for each in tensors]]
    mean = sum(float(value(name, part)) * len(part[0]) for part in parts) / 8
    related = abs(whole - mean) > 1e-9 * abs(whole)
    assert related == relates_samples(LOSSES[name])
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
        found = [x @ y / (np.linalg.norm(x) * np.linalg.norm(y) + 1e-8) for x, y in pairs]
        return 1.0 - float(np.mean(found))

    return 4.0 * (0.7 * one_minus(p, q) + 1.3 * one_minus(p.T, q.T))


def np_standardized(s: np.ndarray, t: np.ndarray) -> float:
    def standard(z: np.ndarray) -> np.ndarray:
        return (z - z.mean(1, keepdims=True)) / (z.std(1, ddof=1, keepdims=True) + 1e-7)

    return np_soft(standard(s), standard(t), 2.0)


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


# ---- numbers worked out by hand --------------------------------------------------------------


@dataclass(frozen=True)
class Golden:
    """Logits of one or two samples, and the loss in closed form."""

    name: str
    student: list[list[float]]
    teacher: list[list[float]]
    expected: float
    options: dict[str, float]
    labels: list[int] | None = None
    relative: float = 1e-12


LOG3 = math.log(3.0)
SINH = 4.0 * math.sinh(1.0) / (1.0 + 2.0 * math.cosh(1.0))
GOLDEN = [
    # KL((1/2, 1/2) || (1/4, 3/4))
    Golden("soft_target", [[0, LOG3]], [[0, 0]], math.log(4 / 3) / 2, {"temperature": 1}),
    Golden("soft_target", [[0, 2 * LOG3]], [[0, 0]], 2 * math.log(4 / 3), {"temperature": 2}),
    # The label: 1/3 against 1/5; the others: (1/2, 1/2) against (1/4, 3/4).
    Golden(
        "decoupled",
        [[0, 0, LOG3]],
        [[0, 0, 0]],
        math.log(5 / 3) / 3 + 2 / 3 * math.log(5 / 6) + 8 * math.log(4 / 3) / 2,
        {"temperature": 1, "alpha": 1, "beta": 8},
        labels=[0],
    ),
    # Opposites: both correlations are -1; the deviations are about 1, so EPSILON shows at 1e-8.
    Golden("dist", [[4, -4], [-4, 4]], [[-4, 4], [4, -4]], 4.0, {}, relative=1e-7),
    Golden("dist", [[4, -4], [-4, 4]], [[-4, 4], [4, -4]], 2.0, {"inter_weight": 0}, relative=1e-7),
    # By the unbiased deviation both are (-1, 0, 1) one way or the other; by the other one, 1.7.
    Golden(
        "standardized_soft_target",
        [[9, 7, 5]],
        [[1, 2, 3]],
        SINH,
        {"temperature": 1},
        relative=1e-6,
    ),
    Golden("pseudo_label", [[0, LOG3]], [[1, 0]], math.log(4), {}),
]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_numbers_worked_out_by_hand(golden: Golden) -> None:
    s, t = (torch.tensor(z, dtype=torch.float64) for z in (golden.student, golden.teacher))
    more = [] if golden.labels is None else [torch.tensor(golden.labels)]
    found = LOSSES[golden.name](s, t, *more, **golden.options)
    assert float(found) == pytest.approx(golden.expected, rel=golden.relative)


# ---- the invariances of the papers, and what is not invariant -------------------------------


def change(name: str, map_: Callable[[Tensor], Tensor]) -> float:
    """The relative change of the loss when the student's logits go through `map_`."""
    s, t = normal(8, 5), normal(8, 5)
    return abs(float(value(name, [map_(s), t]) / value(name, [s, t])) - 1.0)


SHIFT = torch.linspace(-3, 4, 8, dtype=torch.float64)[:, None]
SCALE = torch.linspace(0.5, 1.5, 8, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("name", "map_"),
    [
        ("soft_target", lambda z: z + SHIFT),
        ("dist", lambda z: z + SHIFT),
        ("pseudo_label", lambda z: z + SHIFT),
        ("standardized_soft_target", lambda z: SCALE * z + SHIFT),
    ],
)
def test_what_a_loss_of_logits_does_not_see(name: str, map_: Callable[[Tensor], Tensor]) -> None:
    assert change(name, map_) < 1e-6


@pytest.mark.parametrize(
    ("name", "map_"),
    [
        ("soft_target", lambda z: 2.0 * z),
        ("dist", lambda z: SCALE * z + SHIFT),
        ("standardized_soft_target", lambda z: -z),
        ("pseudo_label", lambda z: 2.0 * z),
    ],
)
def test_what_a_loss_of_logits_does_see(name: str, map_: Callable[[Tensor], Tensor]) -> None:
    assert change(name, map_) > 1e-3


def test_dist_sees_no_affine_map_of_probabilities() -> None:
    """Inter: of each sample's, intra: of each class's; neither is blind to the other's map."""
    q = torch.softmax(normal(6, 4), 1)
    p = torch.softmax(normal(6, 4), 1)

    def of(probabilities: Tensor, **weights: float) -> float:
        return float(losses.dist(probabilities.log(), q.log(), **weights))

    inter, intra = {"intra_weight": 0.0}, {"inter_weight": 0.0}
    # a p + b that stays a probability: a different a for each sample, b = (1 - a) / 4.
    a = torch.linspace(0.3, 0.9, 6, dtype=torch.float64)[:, None]
    by_sample = a * p + (1.0 - a) / 4
    assert of(by_sample, **inter) == pytest.approx(of(p, **inter), rel=1e-5)
    assert of(by_sample, **intra) != pytest.approx(of(p, **intra), rel=1e-3)
    # For each class another b that sums to 0.4: 0.6 p + b.
    b = torch.tensor([0.25, 0.1, 0.04, 0.01], dtype=torch.float64)
    by_class = 0.6 * p + b
    assert of(by_class, **intra) == pytest.approx(of(p, **intra), rel=1e-5)
    assert of(by_class, **inter) != pytest.approx(of(p, **inter), rel=1e-3)


def test_dist_of_one_sample_has_no_intra_and_no_gradient_by_it() -> None:
    s, t = normal(1, 5).requires_grad_(), normal(1, 5)
    loss = losses.dist(s, t, inter_weight=0.0)
    loss.backward()
    assert float(loss.detach()) == 1.0
    assert s.grad is not None
    assert float(s.grad.abs().max()) == 0.0


@pytest.mark.parametrize("name", ["dist", "standardized_soft_target"])
def test_logits_that_are_constant_but_for_rounding_have_no_gradient(name: str) -> None:
    """Peers divide by the rounding: a gradient of 8e5."""
    s = (3.0 + 1e-6 * normal(8, 5)).float().requires_grad_()
    value(name, [s, normal(8, 5, dtype=torch.float32)]).backward()
    assert s.grad is not None
    assert float(s.grad.abs().max()) < 1.0


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


def test_soft_target_of_a_high_temperature_is_half_the_squared_difference_of_logits() -> None:
    """Hinton et al. 2015, section 2.1: of centred logits, over the classes."""
    s, t = normal(8, 5), normal(8, 5)
    apart = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    expected = float(apart.square().sum(1).mean()) / 2 / 5
    assert float(losses.soft_target(s, t, temperature=1e4)) == pytest.approx(expected, rel=1e-3)


# ---- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["soft_target", "decoupled", "dist", "standardized_soft_target", "contrastive"]
)
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(name: str, temperature: float) -> None:
    tensors = given(name, lambda _: normal(8, 5))
    with pytest.raises(ValueError, match=f"temperature must be positive.*, got {temperature}"):
        value(name, tensors, temperature=temperature)


@pytest.mark.parametrize("delta", [0.0, float("inf")])
def test_a_delta_that_bounds_nothing_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match=f"delta must be positive and finite, got {delta}"):
        losses.huber(normal(8, 5), normal(8, 5), delta=delta)


@ALL
def test_what_does_not_fit_is_refused_with_both_shapes(name: str) -> None:
    shape = shape_of(name)
    other = (shape[0] + 1, *shape[1:])
    tensors = given(name, lambda role: normal(*(shape if role == "student" else other)))
    with pytest.raises(ValueError, match=r"differ|not .*samples") as refused:
        value(name, tensors)
    assert str(shape) in str(refused.value)
    assert str(other) in str(refused.value)


@pytest.mark.parametrize("name", ["decoupled", "dist", "standardized_soft_target", "pseudo_label"])
@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 5, 3)])
def test_logits_that_are_not_batch_x_classes_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="are not batch x classes, with two classes or more"):
        value(name, given(name, lambda _: normal(*shape)))


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    labels = torch.full((8,), label)
    with pytest.raises(ValueError, match=rf"labels must be from 0 to 4, got \[{label}\]"):
        value("decoupled", [normal(8, 5), normal(8, 5), labels])


@pytest.mark.parametrize(
    "labels",
    [torch.zeros(1).long(), torch.zeros(8, 1).long(), torch.zeros(8)],
    ids=["one for all", "a column", "floats"],
)
def test_labels_that_are_not_one_class_a_sample_are_refused(labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"are not one class for each .*\(8, 5\)"):
        value("decoupled", [normal(8, 5), normal(8, 5), labels])


# ---- the table ------------------------------------------------------------------------------


class Installed:
    """The entry point of another package's loss."""

    name = "theirs"

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.load = lambda: function


@pytest.mark.parametrize("relates", [True, False, None])
def test_a_loss_of_another_package_is_found_and_says_if_it_relates_samples(
    relates: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def theirs(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return (student_logits - teacher_logits).sum()

    if relates is not None:
        theirs.relates_samples = relates  # type: ignore[attr-defined]
    monkeypatch.setattr(losses, "entry_points", lambda group: [Installed(theirs)][: bool(group)])
    assert find_loss("theirs") is theirs
    assert loss_names() == [*LOSSES, "theirs"]
    assert relates_samples(theirs) == bool(relates)


def test_an_unknown_loss_is_reported_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="did you mean 'soft_target'"):
        find_loss("soft_targets")


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
