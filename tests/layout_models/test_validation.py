"""Validation in the middle of training."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from scenewright.datasets.shapes import Shapes
from scenewright.layout import Batch, Layout
from scenewright.layout_models.training import trainable
from scenewright.layout_models.validation import averaged, validate


@pytest.fixture(scope="session")
def painter() -> ModuleType:
    """The small model that the commands are tested with."""
    spec = importlib.util.spec_from_file_location("painter", Path(__file__).parents[1] / "entrypoints" / "painter.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def accelerator(monkeypatch) -> Accelerator:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return Accelerator()


@pytest.fixture
def model(painter):
    """With a layer whose output depends on the global random state while it is trained."""

    class Dropping(painter.Painter):
        def forward(self, batch: Batch) -> torch.Tensor:
            return super().forward(batch) * torch.nn.functional.dropout(torch.ones(1), 0.5, self.training).sum()

    made = Dropping()
    with torch.no_grad():
        made.inside.copy_(torch.tensor([0.9, 0.2, 0.1]))
    return made


def scenes(count: int, batch_size: int, side: int = 32) -> list[Batch]:
    samples = list(Shapes(count, side, side, split="val"))
    parts = [samples[i : i + batch_size] for i in range(0, count, batch_size)]
    return [Batch.collate(x, seeds=[10 * j + i for i in range(len(x))]) for j, x in enumerate(parts)]


def test_without_anything_held_out_there_is_no_loss_and_no_image(model, accelerator):
    found = validate(model, accelerator, [], [])
    assert math.isnan(found.loss) and found.images == []


def test_the_loss_is_the_mean_over_images_whatever_the_batches(model, accelerator):
    model.eval()
    batches = scenes(7, 1)
    expected = sum(model(x).item() for x in batches) / 7
    parts = [batches[:4], batches[4:]]
    joined = [
        Batch(
            images=torch.cat([x.images for x in part]),
            captions=[x.captions[0] for x in part],
            layouts=[x.layouts[0] for x in part],
            seeds=[x.seeds[0] for x in part],
        )
        for part in parts
    ]
    assert validate(model, accelerator, joined, []).loss == pytest.approx(expected, rel=1e-5)
    assert validate(model, accelerator, batches, []).loss == pytest.approx(expected, rel=1e-5)


def test_images_come_in_order_with_their_own_sizes_and_seeds(model, accelerator):
    wanted = [*scenes(5, 2), *scenes(2, 2, side=48)]
    images = validate(model, accelerator, [], wanted).images
    assert [tuple(x.shape) for x in images] == [(3, 32, 32)] * 5 + [(3, 48, 48)] * 2
    alone = model.sample([""], wanted[1].layouts[1:2], wanted[1].seeds[1:2], height=32, width=32)[0]
    assert torch.equal(images[3], alone)


def test_the_average_is_validated_and_the_weights_come_back_bit_for_bit(model, accelerator):
    ema = EMAModel(trainable(model).values(), decay=0.5)
    with torch.no_grad():
        model.inside.add_(0.3)
    ema.step(trainable(model).values())
    with torch.no_grad():
        model.around.fill_(0.123456789)
    before = {name: x.clone() for name, x in model.named_parameters()}
    batches = scenes(4, 2)
    plain = validate(model, accelerator, batches, batches)
    shown = validate(model, accelerator, batches, batches, ema)
    assert plain.loss != shown.loss and not torch.equal(plain.images[0], shown.images[0])
    assert all(torch.equal(x, before[name]) for name, x in model.named_parameters())
    ema.copy_to(trainable(model).values())
    assert validate(model, accelerator, batches, batches).loss == shown.loss


def test_training_goes_on_as_if_nothing_had_been_validated(model, accelerator):
    model.train()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = validate(model, accelerator, scenes(2, 2), scenes(2, 2))
    assert torch.equal(torch.rand(4), expected) and model.training
    assert all(x.grad is None for x in model.parameters())
    torch.manual_seed(4)
    assert validate(model, accelerator, scenes(2, 2), scenes(2, 2)).loss == first.loss


def test_weights_come_back_when_drawing_fails(model, accelerator):
    ema = EMAModel(trainable(model).values(), decay=0.5)
    with torch.no_grad():
        model.inside.add_(0.25)
    before = model.inside.detach().clone()
    wrong = Batch(images=torch.zeros(1, 3, 30, 30, dtype=torch.uint8), captions=[""], layouts=[Layout.empty()])
    with pytest.raises(ValueError, match="multiples of 8"):
        validate(model, accelerator, [], [wrong], ema)
    assert torch.equal(model.inside, before)
    with averaged(model, accelerator, None):
        assert torch.equal(model.inside, before)


def test_two_processes_share_the_work_and_agree(model, accelerator):
    class One:
        """One of two processes, with the sums of both."""

        num_processes, deepspeed_plugin, device = 2, None, torch.device("cpu")
        autocast, unwrap_model = accelerator.autocast, staticmethod(lambda x: x)

        def __init__(self, rank: int) -> None:
            self.process_index, self.given = rank, None

        def reduce(self, total: torch.Tensor, _: str) -> torch.Tensor:
            self.given = total
            return total

    batches = scenes(5, 2)
    ranks = [One(0), One(1)]
    for rank in ranks:
        validate(model, rank, batches, [])
    both = ranks[0].given + ranks[1].given
    assert both[1] == 5 and ranks[1].given[1] == 2
    assert float(both[0] / both[1]) == pytest.approx(validate(model, accelerator, batches, []).loss)
