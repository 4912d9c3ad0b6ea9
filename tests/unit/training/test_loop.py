"""The training loop and distillation, on networks that train in a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import edgekd
from edgekd.data import Data, Mixed, Samples
from edgekd.errors import RecipeError
from edgekd.network.network import Network, as_network, weights_digest
from edgekd.recipe.training import Distill, Loss, Optimizer, Training
from edgekd.system.import_string import resolve
from edgekd.tasks import TASKS, cross_entropy
from edgekd.tasks.evaluate import score
from edgekd.training.loop import Batch, fit
from edgekd.training.options import Record, TrainingOptions
from edgekd.training.schedule import augmented, sample_order
from tests.support.project import Project


def blobs(project: Project) -> Data:
    data: Data = resolve("data.py:blobs", base=project.folder, at="data.load")()
    return data


def net(width: int, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 3)
    )
    return as_network(module, torch.zeros(1, 8))


def trained(
    data: Data, epochs: int, *, checkpoint: Path | None = None, stop_after: int | None = None
) -> tuple[nn.Module, list[Record]]:
    module = net(6).module

    def progress(done: int, total: int, record: Record) -> None:  # noqa: ARG001
        if done == stop_after:
            raise KeyboardInterrupt

    def loss_of(outputs: dict[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        return {"hard": cross_entropy(outputs["output"], batch.labels)}

    records = fit(
        module,
        loss_of,
        Samples(data.train, ("input",)),
        Training(epochs=epochs, batch_size=32, optimizer=Optimizer(learning_rate=1e-2)),
        seed=1,
        view=augmented(data.augment, 1),
        options=TrainingOptions(progress=progress, checkpoint=checkpoint),
    )
    return module, records


def test_training_is_a_function_of_its_seed(project: Project) -> None:
    data = blobs(project)
    torch.manual_seed(5)
    first, _ = trained(data, 3)
    torch.manual_seed(6)
    torch.rand(100)
    second, _ = trained(data, 3)
    assert weights_digest(first) == weights_digest(second)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_training_ends_at_the_same_weights(
    project: Project, tmp_path: Path, stop_after: int
) -> None:
    data = blobs(project)
    whole, records = trained(data, 4)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(data, 4, checkpoint=path, stop_after=stop_after)
    torch.rand(100)
    continued, again = trained(data, 4, checkpoint=path)
    assert weights_digest(whole) == weights_digest(continued)
    assert records == again


def test_a_broken_checkpoint_is_reported(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"half a checkpoint")
    with pytest.raises(RecipeError, match="checkpoint of an interrupted training") as caught:
        trained(blobs(project), 2, checkpoint=path)
    assert f"delete {path}" in str(caught.value)


def test_a_loss_that_is_not_finite_names_the_step_and_samples() -> None:
    x = torch.randn(64, 8)
    x[5, 0] = float("nan")
    dataset = TensorDataset(x, torch.zeros(64, dtype=torch.int64))
    with pytest.raises(RecipeError, match=r"epoch 1, step \d+, samples \[.*term hard"):
        trained(Data(dataset, dataset, dataset), 1)


def test_each_term_is_recorded_and_the_loss_is_their_sum(project: Project) -> None:
    history: list[Record] = []
    edgekd.distill(
        net(16), net(6, seed=1), blobs(project), CONFIG, options=TrainingOptions(history=history)
    )
    for record in history:
        parts = record["loss_hard"] + record["loss_soft_target"]
        assert record["loss"] == pytest.approx(parts, rel=1e-5)


def test_labels_out_of_range_are_reported_with_their_samples() -> None:
    if torch.cuda.is_available():
        pytest.skip("on an accelerator labels are looked at before training, not by the loss")
    dataset = TensorDataset(torch.randn(64, 8), torch.full((64,), 7))
    with pytest.raises(RecipeError, match="Target 7 is out of bounds") as caught:
        trained(Data(dataset, dataset, dataset), 1)
    assert "samples [" in str(caught.value)


def test_a_last_batch_of_one_sample_does_not_stop_batch_norm() -> None:
    dataset = TensorDataset(torch.randn(65, 8), torch.zeros(65, dtype=torch.int64))
    _, records = trained(Data(dataset, dataset, dataset), 1)
    assert len(records) == 1


CONFIG = Distill(
    epochs=2,
    batch_size=32,
    losses=[
        Loss(method="hard", weight=0.1),
        Loss.model_validate({"method": "soft_target", "weight": 0.9, "temperature": 4.0}),
    ],
)


@pytest.mark.parametrize("outputs", ["live", "cached"])
def test_the_teacher_is_not_changed_by_a_bit_and_keeps_its_mode(
    project: Project, outputs: str
) -> None:
    teacher, student = net(16), net(6, seed=1)
    teacher.module.train()
    before, ours = weights_digest(teacher.module), weights_digest(student.module)
    config = CONFIG.model_copy(update={"teacher_outputs": outputs})
    taught = edgekd.distill(teacher, student, blobs(project), config)
    assert weights_digest(teacher.module) == before
    assert teacher.module.training
    assert all(parameter.requires_grad for parameter in teacher.module.parameters())
    assert weights_digest(student.module) == ours, "the student given is copied, not trained"
    assert weights_digest(taught.module) != ours
    assert type(taught.module) is nn.Sequential, "the student is not left in a wrapper"
    assert not taught.module.training


def test_a_cached_view_is_the_very_same_view(project: Project) -> None:
    """With a view for each epoch, asking live and looking up are one and the same training."""
    teacher, student, data = net(16), net(6, seed=1), blobs(project)
    live = edgekd.distill(
        teacher, student, data, CONFIG.model_copy(update={"teacher_outputs": "live"})
    )
    exact = CONFIG.model_copy(update={"views": 2, "cache_format": "fp32"})
    cached = edgekd.distill(teacher, student, data, exact)
    for ours, theirs in zip(
        live.module.state_dict().values(), cached.module.state_dict().values(), strict=True
    ):
        # The teacher sums in another order in batches of another size, on an accelerator most so.
        near = 1e-3 if torch.cuda.is_available() else 1e-4
        assert torch.allclose(ours.float(), theirs.float(), atol=near)


def test_views_are_repeated_only_after_so_many_epochs(project: Project) -> None:
    teacher, student, data = net(16), net(6, seed=1), blobs(project)
    one = edgekd.distill(teacher, student, data, CONFIG.model_copy(update={"views": 1}))
    two = edgekd.distill(teacher, student, data, CONFIG.model_copy(update={"views": 2}))
    assert weights_digest(one.module) != weights_digest(two.module)


def test_without_a_teacher_to_ask_every_epoch_has_views_of_its_own(project: Project) -> None:
    student, data = net(6, seed=1), blobs(project)
    config = CONFIG.model_copy(update={"losses": [Loss(method="hard")]})
    one, many = (
        edgekd.distill(None, student, data, config.model_copy(update={"views": views}))
        for views in (1, 2)
    )
    assert weights_digest(one.module) == weights_digest(many.module)


def test_the_soft_term_keeps_its_t_squared_without_a_hard_term(project: Project) -> None:
    """Peers drop the factor when the hard weight is zero: 16 times less at a temperature of 4."""
    teacher, student, data = net(16), net(6, seed=1), blobs(project)
    histories: list[list[Record]] = [[], []]
    for history, hard in zip(histories, (0.0, 1e-9), strict=True):
        losses = [
            Loss(method="hard", weight=hard),
            Loss.model_validate({"method": "soft_target", "temperature": 4.0}),
        ]
        config = CONFIG.model_copy(update={"losses": losses, "epochs": 1})
        edgekd.distill(teacher, student, data, config, options=TrainingOptions(history=history))
    assert histories[0][0]["loss"] == pytest.approx(histories[1][0]["loss"], rel=1e-4)


def test_the_last_epoch_is_returned_whatever_validation_says(project: Project) -> None:
    data, history = blobs(project), list[Record]()
    taught = edgekd.distill(
        net(16), net(6, seed=1), data, CONFIG, options=TrainingOptions(history=history)
    )
    validation = Samples(data.validation, ("input",))

    found = score(taught.module, "output", validation, TASKS["classification"], "accuracy")
    assert found == history[-1]["accuracy"]


def test_a_teacher_of_other_classes_is_refused(project: Project) -> None:
    four = as_network(nn.Linear(8, 4), torch.zeros(1, 8))
    with pytest.raises(RecipeError, match="does not fit the teacher's"):
        edgekd.distill(four, net(6), blobs(project), CONFIG)


def test_a_loss_warms_up_over_its_epochs(project: Project) -> None:
    teacher, student, data = net(16), net(6, seed=1), blobs(project)
    histories: list[list[Record]] = [[], []]
    for history, warm_up in zip(histories, (0, 4), strict=True):
        loss = {"method": "soft_target", "temperature": 1.0, "warmup_epochs": warm_up}
        config = CONFIG.model_copy(update={"losses": [Loss.model_validate(loss)], "epochs": 1})
        edgekd.distill(teacher, student, data, config, options=TrainingOptions(history=history))
    assert histories[1][0]["loss"] < 0.5 * histories[0][0]["loss"]


def test_unlabelled_samples_take_part_in_the_losses_that_need_no_label(project: Project) -> None:
    """The few labels are the same; only the rest, without labels, differs."""
    data = blobs(project)
    few = TensorDataset(*(column[:8] for column in data.train.tensors))
    rest = TensorDataset(data.train.tensors[0][8:])
    teacher, student = net(16), net(6, seed=1)
    alone, mixed = (
        edgekd.distill(
            teacher,
            student,
            replace(data, train=few, unlabeled=unlabeled),
            CONFIG,
            options=TrainingOptions(history=history),
        )
        for unlabeled, history in ((None, list[Record]()), (rest, list[Record]()))
    )
    assert weights_digest(alone.module) != weights_digest(mixed.module)
    hard_only = CONFIG.model_copy(update={"losses": [Loss(method="hard")], "epochs": 1})
    history: list[Record] = []
    edgekd.distill(
        teacher,
        student,
        replace(data, train=few, unlabeled=rest),
        hard_only,
        options=TrainingOptions(history=history),
    )
    assert history[0]["loss"] > 0


def test_labelled_samples_come_first_and_are_dealt_evenly() -> None:
    x = torch.arange(100.0)[:, None]
    mixed = Mixed(
        Samples(TensorDataset(x[:10], torch.arange(10)), ("input",)),
        Samples(TensorDataset(x[10:]), ("input",), labelled=False),
    )
    order = sample_order(mixed, 3)
    assert sorted(order.tolist()) == list(range(100))
    for ids in order.split(20):
        assert int((ids < 10).sum()) == 2
    inputs, labels = mixed.take(torch.tensor([3, 7, 50, 99]))
    assert inputs["input"][:, 0].tolist() == [3, 7, 50, 99]
    assert labels is not None
    assert labels.tolist() == [3, 7]
    assert mixed.take(torch.tensor([50]))[1] is None
