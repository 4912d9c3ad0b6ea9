"""Every task: its loss, metrics, agreement and labels obey the same laws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgekd.data import Data
from edgekd.distillation.objective import plan_terms
from edgekd.errors import RecipeError
from edgekd.losses import LOSSES
from edgekd.recipe.training import Loss
from edgekd.tasks import IGNORED, TASKS
from edgekd.tasks.embedding import nearest
from edgekd.tasks.evaluate import by_slice
from edgekd.training.loop import Batch
from tests.support.skips import need_modules


@dataclass(frozen=True)
class Case:
    """Outputs of a task, its targets, and outputs that meet these as well as can be."""

    task: str
    outputs: Tensor
    targets: Tensor
    perfect: Tensor


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _cases() -> list[Case]:
    generator = _generator()
    classes = torch.arange(40) % 6
    tokens = torch.randint(0, 6, (40, 7), generator=generator)
    tokens[:, 5:] = IGNORED
    pixels = torch.randint(0, 6, (40, 4, 5), generator=generator)
    pixels[:, 0] = IGNORED
    numbers = torch.randn(40, 3, generator=generator)
    hot = F.one_hot(tokens.clamp(min=0), 6).float()
    maps = F.one_hot(pixels.clamp(min=0), 6).float().permute(0, 3, 1, 2)
    random = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return [
        Case("classification", random(40, 6), classes, 50 * F.one_hot(classes, 6).float()),
        Case("token-classification", random(40, 7, 6), tokens, 50 * hot),
        Case("segmentation", random(40, 6, 4, 5), pixels, 50 * maps),
        Case("regression", random(40, 3), numbers, numbers),
        Case("embedding", random(40, 6), classes, F.one_hot(classes, 6).float()),
        Case("embedding", random(40, 3), numbers, 3 * numbers),
    ]


CASES = _cases()
WITH_METRIC = [
    (case, name)
    for case in CASES
    for name, metric in TASKS[case.task].metrics.items()
    if (metric.takes == "numbers") == case.targets.is_floating_point()
]


def test_every_task_has_a_case() -> None:
    assert {case.task for case in CASES} == set(TASKS)


@pytest.mark.parametrize(
    ("case", "name"), WITH_METRIC, ids=[f"{case.task}-{name}" for case, name in WITH_METRIC]
)
def test_no_outputs_are_better_than_perfect_ones(case: Case, name: str) -> None:
    metric = TASKS[case.task].metrics[name]
    if metric.package:
        need_modules(metric.package[0])
    best, found = metric(case.perfect, case.targets), metric(case.outputs, case.targets)
    assert best == pytest.approx(0 if metric.smaller_is_better else 1, abs=1e-5)
    assert metric.drop(found, best) > 0.05
    assert metric.drop(best, found) == -metric.drop(found, best)
    if metric.share:
        assert 0 <= found <= 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_the_hard_loss_is_least_at_perfect_outputs(case: Case) -> None:
    loss = TASKS[case.task].loss
    best = loss(case.perfect, case.targets)
    assert best < loss(case.outputs, case.targets)
    if not (case.task == "embedding" and not case.targets.is_floating_point()):
        assert float(best) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_agreement_is_1_with_itself_and_less_with_others(case: Case) -> None:
    agree = TASKS[case.task].agreement
    assert agree(case.outputs, case.outputs.clone(), case.targets) == 1
    other = agree(case.outputs, case.outputs.roll(1, 0), case.targets)
    assert other is not None
    assert other < 0.6


@pytest.mark.parametrize(
    "case", [case for case in CASES if TASKS[case.task].dense], ids=lambda case: case.task
)
def test_ignored_places_change_nothing(case: Case) -> None:
    task = TASKS[case.task]
    ignored = case.targets == IGNORED
    axis = task.classes_axis or 0
    noise = 9 * torch.randn(case.outputs.shape, generator=_generator()) * ignored.unsqueeze(axis)
    moved = case.outputs + noise
    assert torch.equal(task.loss(case.outputs, case.targets), task.loss(moved, case.targets))
    for metric in task.metrics.values():
        if metric.package:
            need_modules(metric.package[0])
        assert metric(case.outputs, case.targets) == metric(moved, case.targets)
    assert task.agreement(case.outputs, moved, case.targets) == 1
    loss = Loss(method="soft_target", temperature=2.0)  # type: ignore[call-arg]
    (term,) = plan_terms([loss], task)
    teacher = torch.randn(case.outputs.shape, generator=_generator())
    known = term.compared([case.outputs, teacher], case.targets)
    assert torch.equal(known, term.compared([moved, teacher], case.targets))
    assert not torch.equal(known, term.compared([moved, teacher], None))


@pytest.mark.parametrize(
    "case", [case for case in CASES if TASKS[case.task].dense], ids=lambda case: case.task
)
@pytest.mark.parametrize("method", ["soft_target", "decoupled", "pseudo_label", "dist"])
def test_a_loss_of_logits_compares_places_one_by_one(case: Case, method: str) -> None:
    task = TASKS[case.task]
    options = {
        "soft_target": {"temperature": 2.0},
        "decoupled": {"alpha": 1.0, "beta": 2.0, "temperature": 2.0},
    }
    (term,) = plan_terms([Loss(method=method, **options.get(method, {}))], task)
    teacher = torch.randn(case.outputs.shape, generator=_generator())
    seen = {"student_logits": case.outputs, "teacher_logits": teacher, "labels": case.targets}
    batch = Batch(0, torch.arange(40), {}, case.targets, 40, 40)
    found = term.value({term.key("student_logits"): case.outputs}, {"": teacher}, batch)
    keep = case.targets.reshape(-1) != IGNORED
    rows = {
        name: (task.rows(value) if name != "labels" else value.reshape(-1))[keep]
        for name, value in seen.items()
    }
    expected = LOSSES[method](*(rows[name] for name in term.inputs), **term.loss.options)
    assert torch.allclose(found, expected)


def test_plain_figures_are_those_of_torchmetrics() -> None:
    need_modules("torchmetrics")
    from torchmetrics import functional

    cases = {case.task: case for case in CASES[:4]}
    tasks = {name: TASKS[name].metrics for name in cases}

    def ours(task: str, name: str) -> float:
        return tasks[task][name](cases[task].outputs, cases[task].targets)

    many = {"task": "multiclass", "num_classes": 6}
    case = cases["classification"]
    for name, average in (("accuracy", "micro"), ("balanced_accuracy", "macro")):
        theirs = functional.accuracy(case.outputs, case.targets, average=average, **many)
        assert ours("classification", name) == pytest.approx(float(theirs))
    for task, name, axis in (
        ("token-classification", "token_accuracy", 2),
        ("segmentation", "pixel_accuracy", 1),
    ):
        logits = cases[task].outputs.movedim(axis, 1)
        theirs = functional.accuracy(logits, cases[task].targets, ignore_index=IGNORED, **many)
        assert ours(task, name) == pytest.approx(float(theirs))
    case = cases["regression"]
    theirs = functional.mean_absolute_error(case.outputs, case.targets)
    assert ours("regression", "mae") == pytest.approx(float(theirs))
    theirs = functional.mean_squared_error(case.outputs, case.targets, squared=False)
    assert ours("regression", "rmse") == pytest.approx(float(theirs))
    one = case.outputs[:, 0], case.targets[:, 0]
    theirs = functional.r2_score(*one)
    assert tasks["regression"]["r2"](*one) == pytest.approx(float(theirs), rel=1e-5)


def test_targets_of_one_number_are_not_compared_each_with_each() -> None:
    targets = torch.arange(5.0)
    for metric in ("mae", "rmse"):
        assert TASKS["regression"].metrics[metric](targets[:, None], targets) == 0
    assert float(TASKS["regression"].loss(targets[:, None], targets)) == 0


def test_targets_that_do_not_vary_are_reported_or_not() -> None:
    r2 = TASKS["regression"].metrics["r2"]
    assert r2(torch.ones(4, 1), torch.ones(4)) == 1
    assert r2(torch.zeros(4, 1), torch.ones(4)) == 0


def test_the_nearest_of_many_is_found_in_parts() -> None:
    features = torch.randn(1100, 4, generator=_generator())
    cosines = F.cosine_similarity(features[:, None].double(), features[None].double(), dim=2)
    cosines.fill_diagonal_(-2)
    assert torch.equal(nearest(features), cosines.argmax(1))


def test_widths_of_embeddings_may_differ_and_lengths_do_not_count() -> None:
    features = torch.randn(50, 4, generator=_generator())
    wider = torch.cat([features, torch.zeros(50, 3)], dim=1) * torch.rand(
        50, 1, generator=_generator()
    )
    assert TASKS["embedding"].agreement(features, wider, None) == 1


def test_a_linear_probe_tells_what_a_line_can_tell() -> None:
    generator = _generator()
    labels = torch.randint(0, 2, (400,), generator=generator)
    separable = torch.randn(400, 8, generator=generator)
    separable[:, 0] += 6.0 * labels - 3.0
    probe = TASKS["embedding"].metrics["linear_probe"]
    assert probe(separable, labels) > 0.95
    assert probe(torch.randn(400, 8, generator=generator), labels) < 0.65


WRONG = {
    "classes under none": ("classification", (None, 6), torch.tensor([1, -1])),
    "classes over all": ("classification", (None, 6), torch.tensor([1, 6])),
    "one-hot integers": ("classification", (None, 6), torch.eye(6, dtype=torch.int64)),
    "probabilities of fewer": ("classification", (None, 6), torch.rand(3, 5)),
    "one class for all tokens": ("token-classification", (None, 7, 6), torch.zeros(4).long()),
    "fewer tokens": ("token-classification", (None, 7, 6), torch.zeros(4, 6).long()),
    "token class over all": ("token-classification", (None, 7, 6), torch.full((4, 7), 6)),
    "no token outputs": ("token-classification", (None, 6), torch.zeros(4).long()),
    "smaller maps": ("segmentation", (None, 6, 8, 8), torch.zeros(4, 4, 4).long()),
    "maps of real numbers": ("segmentation", (None, 6, 8, 8), torch.zeros(4, 8, 8)),
    "no maps": ("segmentation", (None, 6), torch.zeros(4).long()),
    "integers": ("regression", (None, 1), torch.zeros(4).long()),
    "too many numbers": ("regression", (None, 1), torch.zeros(4, 2)),
    "one number of two": ("regression", (None, 2), torch.zeros(4)),
    "vectors of another length": ("embedding", (None, 8), torch.zeros(4, 7)),
    "classes in two columns": ("embedding", (None, 8), torch.zeros(4, 2).long()),
    "no vectors": ("embedding", (None, 8, 2), torch.zeros(4).long()),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_labels_are_reported_in_five_parts(name: str) -> None:
    task, shape, labels = WRONG[name]
    fault = TASKS[task].label_fault(shape, labels)
    assert fault is not None
    assert all((fault.what, fault.at, fault.got, fault.expected, fault.fix))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_right_labels_have_no_fault(case: Case) -> None:
    shape = (None, *case.outputs.shape[1:])
    assert TASKS[case.task].label_fault(shape, case.targets) is None


def test_a_slice_is_numbers_or_truth_values() -> None:
    test = torch.utils.data.TensorDataset(torch.zeros(5, 1), torch.tensor([0, 0, 1, 1, 1]))
    night = torch.tensor([True, False, True, False, False])
    data = Data(test, test, test, slices={"night": night, "last": [4, 3, 4]})
    ids = data.slice_ids()
    assert {name: each.tolist() for name, each in ids.items()} == {"night": [0, 2], "last": [3, 4]}
    logits = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1], [0, 1]])
    found = by_slice(TASKS["classification"].metrics["accuracy"], logits, test.tensors[1], ids)
    assert found == {"night": 0.5, "last": 1.0}


@pytest.mark.parametrize(
    "given", [[5], [-1], [], [True, False], [0.5], [[1]], "night"], ids=lambda given: repr(given)
)
def test_a_slice_that_is_none_is_reported(given: object) -> None:
    test = torch.utils.data.TensorDataset(torch.zeros(5, 1), torch.zeros(5).long())
    with pytest.raises(RecipeError, match="The slice 'odd'") as caught:
        Data(test, test, test, slices={"odd": given}).slice_ids()
    assert "0 to 4, or 5 booleans" in caught.value.faults[0].expected


def test_a_metric_that_is_not_defined_on_a_slice_is_none() -> None:
    metric = TASKS["regression"].metrics["mae"]
    numbers = torch.tensor([1.0, math.nan])
    found = by_slice(metric, numbers, torch.zeros(2), {"all": torch.arange(2)})
    assert found == {"all": None}
