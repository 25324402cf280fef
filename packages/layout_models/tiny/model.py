"""A text-conditioned UNet with regional layers, small enough to train on a CPU; its weights come along.

Pixels are folded 2 x 2 into channels in place of an autoencoder, the text encoder is trained
along, and each cell is told what the smallest box over it says and where in it it lies; see plan.py.

Weights: made here, from drawn scenes; see MODEL_CARD.md. Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from scenewright.checkpoints import CheckpointError, read_tensors
from scenewright.layout import Batch, Images, Layout
from scenewright.layout_models.objective import diffusion_loss, draw, target
from scenewright.layout_models.rich_context.adapter import attach_layers, attention_grids, check_same
from scenewright.layout_models.rich_context.grounding import Canvas, GroundingEncoder, canvas, ground, said_of
from scenewright.layout_models.rich_context.regional_attention import Grounding, RegionalCrossAttention
from scenewright.layout_models.stable_diffusion import check_counts
from scenewright.layout_models.tiny.averaged import AveragedCrossAttention, alone, ground_each
from scenewright.layout_models.tiny.plan import PLACE, Plan, outline_error, owners, place_in_box
from scenewright.layout_models.tiny.words import WordTokenizer

#: Pixels per side of a cell, which is one position of the UNet's finest grid.
CELL = 2

_WEIGHTS = Path(__file__).with_name("weights.safetensors")
_TWIN = _WEIGHTS.with_name("caption_only.safetensors")


@dataclass(frozen=True, eq=False)
class Told:
    """What the UNet is told of the layouts of a batch; nothing, unless given.

    Attributes:
        grounding: what its ``position_net`` reads.
        cells: ``(b, k, h, w)``, what each cell of the finest grid is told besides.
        outlines: ``(b, q, h, w)``, the logits of the planned outlines.
        canvases: of the layouts that the plan has seen.
    """

    grounding: Any = None
    cells: Float[Tensor, "b k h w"] | None = None
    outlines: Float[Tensor, "b q h w"] | None = None
    canvases: Sequence[Canvas | None] = ()


class Tiny(nn.Module):
    """Draws scenes of shapes, each with its colour and form in its box.

    Args:
        weights: ``shipped``, a file, or None for random ones.
        num_inference_steps: of the sampler.
        guidance_scale: of caption and layout together; 1 is none.
        layout_drop: share of the images whose layout is dropped in training.
        caption_drop: the same for captions.
        label_share: share of the images whose objects are named by their labels in place of their captions in training.
        attention_weight_scale: how much the smaller objects of an overlap are favoured.
        outline_weight: of the error of the planned outlines in the loss, where layouts have masks.
        plan: False leaves out what each cell is told besides; the regional layers alone know the layout.
        box_code: False leaves the boxes out of the regional layers' tokens; without a plan only.
        overlaps: ``regions``, or ``averaged``: each object speaks alone, and pixels that several cover get the mean;
            without a plan only.
        base: with ``weights`` None, what to begin from: ``twin``, the weights of ``tiny_caption_only`` that come along,
            or a file of such. What the layout needs besides begins without any effect.

    Raises:
        CheckpointError: the weights are of another model.
        ValueError: no such treatment of overlaps, or one that the plan would undo.
    """

    grounded = True

    #: Settings that a run may change its mind about: no weight depends on them.
    changeable = ("num_inference_steps", "guidance_scale")

    #: The size that it was trained on, in pixels.
    height = width = 32

    def __init__(
        self,
        weights: str | None = "shipped",
        num_inference_steps: int = 20,
        guidance_scale: float = 2.5,
        layout_drop: float = 0.1,
        caption_drop: float = 0.1,
        label_share: float = 0.5,
        attention_weight_scale: float = 1.0,
        outline_weight: float = 0.5,
        plan: bool = True,
        box_code: bool = True,
        overlaps: str = "regions",
        base: str | None = None,
    ) -> None:
        if overlaps not in ("regions", "averaged"):
            raise ValueError(f"overlaps must be 'regions' or 'averaged', got {overlaps!r}")
        if plan and (not box_code or overlaps == "averaged"):
            raise ValueError(
                "the plan tells boxes and settles overlaps: box_code=false, overlaps=averaged want plan=false"
            )
        super().__init__()
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.layout_drop, self.caption_drop, self.label_share = layout_drop, caption_drop, label_share
        self.attention_weight_scale, self.outline_weight = attention_weight_scale, outline_weight
        self.tokenizer = WordTokenizer()
        self.text_encoder = _text_encoder(len(self.tokenizer), self.tokenizer.length)
        text_width = self.text_encoder.config.hidden_size
        self.plan = Plan(text_width, CELL) if self.grounded and plan else None
        self.unet = _unet(text_width, told=0 if self.plan is None else self.plan.channels)
        self.averaged = overlaps == "averaged"
        if self.grounded:
            self._attach(box_code)
        # a velocity keeps what is seen of an image nearly without noise: the network need not copy it
        self.scheduler: Any = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
        self.untrained = weights is None and base is None
        if weights is not None:
            self._fill(self.shipped if weights == "shipped" else Path(weights).expanduser())
        elif base is not None:
            self._begin(_TWIN if base == "twin" else Path(base).expanduser())

    @property
    def shipped(self) -> Path:
        """The file that comes with the package."""
        return _WEIGHTS

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the UNet's blocks, as ``torch.compile``; layouts are prepared outside, and differ in every batch."""
        self.unet.compile_repeated_blocks(*args, **options)

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """The error of the velocity that is predicted of noisy images, mean over the batch."""
        device = self.unet.device
        latents = pixel_unshuffle(batch.images.to(device).float() / 127.5 - 1, CELL)
        draws = draw(
            batch.seeds,
            latents.shape[1:],
            self.scheduler.config.num_train_timesteps,
            layout_drop=self.layout_drop,
            caption_drop=self.caption_drop,
        )
        noise, timesteps = draws.noise.to(device), draws.timesteps.to(device)
        captions = ["" if dropped else x for x, dropped in zip(batch.captions, draws.caption_dropped, strict=True)]
        layouts = [
            replace(x, captions=[]) if chance < self.label_share else x
            for x, chance in zip(batch.layouts, draws.label_only, strict=True)
        ]
        height, width = batch.images.shape[2:]
        shown = [None if dropped else x for x, dropped in zip(layouts, draws.layout_dropped, strict=True)]
        told = self._tell(shown, draws.layout_dropped, batch.seeds, height, width)
        prediction = self._predict(
            self.scheduler.add_noise(latents, noise, timesteps), timesteps, self._read(captions), told
        )
        wanted = target(self.scheduler, latents, noise, timesteps)
        # forms are decided where little is seen, so these steps count as much as the others
        weights = self._weights(batch.captions)
        loss = diffusion_loss(
            prediction, wanted, timesteps, self.scheduler, snr_gamma=5.0, snr_floor=1.0, weights=weights
        )
        if told.outlines is not None:
            loss = loss + self.outline_weight * outline_error(told.outlines, told.canvases, layouts, CELL)
        return loss

    @torch.no_grad()
    def sample(
        self, captions: Sequence[str], layouts: Sequence[Layout], seeds: Sequence[int], *, height: int, width: int
    ) -> Images:
        """One image per layout, each from its own seed.

        Raises:
            ValueError: the size is not a multiple of 4, or there are not as many captions, layouts and seeds.
        """
        check_counts(captions, layouts, seeds)
        if height % (2 * CELL) or width % (2 * CELL):
            raise ValueError(f"height and width must be multiples of {2 * CELL}, got {height} and {width}")
        shape = (3 * CELL**2, height // CELL, width // CELL)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(x)) for x in seeds]
        latents = self._denoise(torch.stack(noise).to(self.unet.device), captions, layouts, seeds)
        return ((pixel_shuffle(latents, CELL) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def _weights(self, captions: Sequence[str]) -> Float[Tensor, " b"] | None:
        """How much each image counts in the loss; None: all the same."""
        return None

    def _denoise(
        self,
        latents: Float[Tensor, "b c h w"],
        captions: Sequence[str],
        layouts: Sequence[Layout],
        seeds: Sequence[int],
    ) -> Float[Tensor, "b c h w"]:
        """Images, folded, from noise."""
        height, width = (CELL * size for size in latents.shape[2:])
        # guidance needs each image twice: without caption and layout, and with them
        text = self._read([""] * len(captions) + list(captions))
        shown, missed = [None] * len(layouts) + list(layouts), [len(x) > 0 for x in layouts] * 2
        told = self._tell(shown, missed, [*seeds, *seeds], height, width)
        if told.grounding is not None:
            told.grounding.reuse = True
        scheduler = self._sampler()
        for timestep in scheduler.timesteps:
            found = self._guided(latents, timestep, text, told)
            latents = scheduler.step(found, timestep, latents).prev_sample
        return latents

    def _sampler(self) -> Any:
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

        scheduler: Any = DPMSolverMultistepScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(self.num_inference_steps)
        return scheduler

    def _guided(
        self, latents: Float[Tensor, "b c h w"], timestep: Tensor, text: Float[Tensor, "t l d"], told: Told
    ) -> Float[Tensor, "b c h w"]:
        """The guided prediction; text and layouts are those of the halves of guidance, one after the other."""
        both = self._predict(torch.cat([latents, latents]), timestep.to(latents.device), text, told)
        free, bound = both.chunk(2)
        return free + self.guidance_scale * (bound - free)

    def _predict(
        self, noisy: Float[Tensor, "b c h w"], timesteps: Int[Tensor, ...], text: Float[Tensor, "b t d"], told: Told
    ) -> Float[Tensor, "b c h w"]:
        layers = None if told.grounding is None else {"gligen": {"grounding": told.grounding}}
        noisy = noisy if told.cells is None else torch.cat([noisy, told.cells], 1)
        return self.unet(noisy, timesteps, text, cross_attention_kwargs=layers).sample

    def _attach(self, box_code: bool) -> None:
        """Give the UNet the layers that read ``Told.grounding``."""
        layer = AveragedCrossAttention if self.averaged else RegionalCrossAttention
        attach_layers(self.unet, layer, lambda width: GroundingEncoder(width, boxes=box_code, hidden=128))

    def _tell(
        self,
        layouts: Sequence[Layout | None],
        dropped: Sequence[bool],
        seeds: Sequence[int],
        height: int,
        width: int,
    ) -> Told:
        """What there is to tell of the layouts.

        Args:
            layouts: one per image; None where it is not to be seen.
            dropped: which of the images without one had one taken away.
            seeds: one per image, for what is drawn at random.
            height: of the images, in pixels.
            width: of the images, in pixels.
        """
        if not self.grounded:
            return Told()
        canvases = [self._canvas(x, height, width) if x is not None and len(x) else None for x in layouts]
        cells, outlines = self._plan(canvases, layouts, (height // CELL, width // CELL))
        return Told(self._ground(canvases, layouts, dropped, height, width), cells, outlines, canvases)

    def _plan(
        self, canvases: Sequence[Canvas | None], layouts: Sequence[Layout | None], grid: Sequence[int]
    ) -> tuple[Float[Tensor, "b k h w"] | None, Float[Tensor, "b q h w"] | None]:
        """What the cells are told, and the logits of the planned outlines; nothing where there are no boxes."""
        if self.plan is None:
            return None, None
        features, said = self._said(layouts)
        which, places = torch.full((len(said), *grid), len(features) - 1), torch.zeros(len(said), *grid, PLACE)
        for i, (x, some) in enumerate(zip(canvases, said, strict=True)):
            if x is not None:
                owner, inside = owners(x)
                which[i] = torch.where(inside, some[owner], len(features) - 1)
                places[i] = place_in_box(x)
        cells = features.index_select(0, which.flatten().to(features.device)).unflatten(0, which.shape)
        return self.plan(cells, places.to(features.device))

    def _said(self, layouts: Sequence[Layout | None]) -> tuple[Float[Tensor, "n c"], list[Int[Tensor, " _k"]]]:
        """A feature for each text that objects say, and zeros at the end; and which of them each object says."""
        said = [[] if x is None else said_of(x) for x in layouts]
        texts = sorted({text for some in said for text in some})
        number = {text: i for i, text in enumerate(texts)}
        return self._summaries(texts), [torch.tensor([number[x] for x in some], dtype=torch.long) for some in said]

    def _summaries(self, texts: Sequence[str]) -> Float[Tensor, "n c"]:
        """One feature per text, that of its last token; and zeros at the end."""
        none = torch.zeros(1, self.text_encoder.config.hidden_size, device=self.unet.device)
        if not texts:
            return none
        ids = torch.tensor([self.tokenizer.sequence(text) for text in texts])
        last = (ids == self.tokenizer.eos).int().argmax(1)
        features = self._encode(ids[:, : int(last.max()) + 1])
        return torch.cat([features[torch.arange(len(ids)), last], none])

    def _read(self, texts: Sequence[str]) -> Float[Tensor, "b t d"]:
        ids = torch.tensor([self.tokenizer.sequence(text) for text in texts])
        return self._encode(ids)

    def _encode(self, ids: Int[Tensor, "u t"]) -> Float[Tensor, "u t d"]:
        """Text features of token sequences, at every position."""
        if not len(ids):
            return torch.zeros(*ids.shape, self.text_encoder.config.hidden_size, device=self.unet.device)
        return self.text_encoder(ids.to(self.unet.device)).last_hidden_state

    def _canvas(self, layout: Layout, height: int, width: int) -> Canvas:
        grids = attention_grids(self.unet, height // CELL, width // CELL)
        return canvas(layout, height, width, grids, self.tokenizer, cell=CELL)

    def _ground(
        self,
        canvases: Sequence[Canvas | None],
        layouts: Sequence[Layout | None],
        dropped: Sequence[bool],
        height: int,
        width: int,
    ) -> Grounding:
        gone = [x is None and drop for x, drop in zip(canvases, dropped, strict=True)]
        grids = attention_grids(self.unet, height // CELL, width // CELL)
        if self.averaged:
            each = [
                None if x is None or layout is None else [self._canvas(one, height, width) for one in alone(layout)]
                for x, layout in zip(canvases, layouts, strict=True)
            ]
            grounding = ground_each(each, self._encode, grids, dropped=gone)
        else:
            scale = self.attention_weight_scale
            grounding = ground(canvases, self._encode, grids, dropped=gone, attention_weight_scale=scale)
        return grounding.to(self.unet.device, self.unet.dtype)

    def _fill(self, path: Path) -> None:
        tensors = _read(path)
        check_same(self.state_dict(), tensors)
        self.load_state_dict(tensors)

    def _begin(self, path: Path) -> None:
        own, tensors = self.state_dict(), _read(path)
        first = "unet.conv_in.weight"
        if first in tensors:  # it sees nothing yet of what cells are told
            tensors[first] = pad(tensors[first], (0, 0, 0, 0, 0, own[first].shape[1] - tensors[first].shape[1]))
        new = ("plan.", "unet.position_net.")
        parts = (".fuser.", ".scaleu.")
        begun = {k: x for k, x in own.items() if not k.startswith(new) and not any(part in k for part in parts)}
        check_same(begun, tensors)
        self.load_state_dict(tensors, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; name a .safetensors file, those that come along, or null")
    return {name: x.float() for name, x in read_tensors(path).items()}


def _text_encoder(words: int, length: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=length,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return CLIPTextModel(config)


def _unet(text_width: int, told: int) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    heads: Any = (3, 4)  # diffusers calls their number attention_head_dim, and types it too narrowly
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=3 * CELL**2 + told,
        out_channels=3 * CELL**2,
        block_out_channels=(48, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=heads,
        cross_attention_dim=text_width,
        norm_num_groups=8,
    )
