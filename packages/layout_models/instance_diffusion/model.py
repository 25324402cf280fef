"""Gated self-attention that is trained on a frozen Stable Diffusion: InstanceDiffusion, and GLIGEN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from scenewright.checkpoints import Checkpoint, read_tensors
from scenewright.layout import Batch, Images, Layout
from scenewright.layout_models.checkpoint import read_weights
from scenewright.layout_models.instance_diffusion import sampler
from scenewright.layout_models.instance_diffusion.attach import (
    adapter_parameters,
    attach,
    freeze_base,
    is_published,
    load,
)
from scenewright.layout_models.instance_diffusion.gated_attention import GroundingTokens
from scenewright.layout_models.instance_diffusion.guided import Guided
from scenewright.layout_models.instance_diffusion.locations import Locations, collate, locate
from scenewright.layout_models.instance_diffusion.type_dropping import TypeDropping
from scenewright.layout_models.instance_diffusion.unifusion import KINDS, TYPES
from scenewright.layout_models.objective import diffusion_loss, draw, target
from scenewright.layout_models.rich_context.adapter import attention_grids
from scenewright.layout_models.rich_context.components import StableDiffusion
from scenewright.layout_models.rich_context.grounding import said_of
from scenewright.layout_models.stable_diffusion import StableDiffusionModel, check_counts
from scenewright.networks import precision

#: Instances that the released weights always have room for; where there are fewer, learnt null vectors stand.
SLOTS = 30


@dataclass(frozen=True)
class Sampling:
    """How images are drawn; see ``sampler.sample``.

    Attributes:
        num_inference_steps: of the sampler.
        guidance_scale: of caption and layout; 1 is no guidance.
        alpha: the shares of the steps in which grounding is full, decays in a line, and is off.
        mis: the share of the steps that each instance is denoised alone; 0 is plain sampling.
        conditions: which of ``TYPES`` are read, of those that a layout has.
        negative_prompt: what images are not to show; None: nothing is said of that.
        max_batch: rows of the UNet's batch; None: all at once.

    Raises:
        ValueError: there is no such condition, or a number is out of range.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    alpha: Sequence[float] = (0.8, 0.0, 0.2)
    mis: float = 0.36
    conditions: Sequence[str] = TYPES
    negative_prompt: str | None = None
    max_batch: int | None = None

    def __post_init__(self) -> None:
        unknown = [x for x in self.conditions if x not in TYPES]
        if unknown or not self.conditions:
            raise ValueError(f"conditions must be some of {', '.join(TYPES)}, got {list(self.conditions)}")
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {self.num_inference_steps}")
        if not 0 <= self.mis <= 1:
            raise ValueError(f"mis is a share of the steps, from 0 to 1, got {self.mis}")
        if self.max_batch is not None and self.max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {self.max_batch}")
        sampler.gate(self.alpha, self.num_inference_steps)


class InstanceDiffusion(StableDiffusionModel):
    """A frozen Stable Diffusion whose pixels read grounding tokens. See the classes that name its weights.

    Args:
        source: where the base comes from. Where its UNet has such layers, as diffusers' GLIGEN, these are taken.
        position_net: makes the grounding tokenizer for texts of so many channels.
        weights: where what is learnt comes from: a file of the released names or of ours, a training run, or a hub id;
            None for new ones, or the base's.
        revision: of ``weights``, where they are on the hub.
        file: which of the hub's files they are.
        scaleu: rescale the decoder's features too.
        dtype: of what is frozen: float32, bfloat16 or float16. What learns is kept in float32.
        cache: a folder in which text features and latents are kept; None for none.
        cache_latents: latents too; worth it where images come framed the same way each time.
        sampling: how images are drawn.
        dropping: which kinds of locations a sample shows while training.
        label_share: share of the instances that say their label while training though they have a caption.
        caption_drop: share of the images whose caption is dropped in training.
        object_attention: pixels of an object attend to that object alone, and to its tokens.
        snr_gamma: clip the weight of a timestep; None for the plain error.
        noise_offset: see ``objective.draw``.
        gradient_checkpointing: compute the UNet's blocks anew in the backward pass.

    Raises:
        MissingWeights: something is not there; one paragraph says what, before anything is read.
        CheckpointError: the weights are of another base.
        ValueError: the base predicts something other than noise.
    """

    #: Its layers are new: it draws what the base draws, whatever the layout.
    untrained: bool

    #: Settings that a run may change its mind about: no weight depends on them.
    changeable = (
        "cache",
        "cache_latents",
        "gradient_checkpointing",
        "num_inference_steps",
        "guidance_scale",
        "alpha",
        "mis",
        "conditions",
        "negative_prompt",
        "max_batch",
    )

    def __init__(
        self,
        source: StableDiffusion,
        position_net: Callable[[int], nn.Module],
        *,
        weights: str | None,
        revision: str,
        file: str,
        scaleu: bool,
        dtype: str,
        cache: str | None,
        cache_latents: bool,
        sampling: Sampling,
        dropping: TypeDropping,
        label_share: float,
        caption_drop: float,
        object_attention: bool,
        snr_gamma: float | None,
        noise_offset: float,
        gradient_checkpointing: bool,
    ) -> None:
        kind = precision(dtype)
        found = None if weights is None else _read(weights, revision, file)
        parts = source.load(kind)
        own = {name: x.detach() for name, x in adapter_parameters(parts["unet"]).items()}
        attach(parts["unet"], position_net(_width(parts["unet"])), scaleu=scaleu)
        super().__init__(parts, cache=cache, cache_latents=cache_latents)
        if self.noising.config.prediction_type != "epsilon":
            raise ValueError(f"the base must predict noise (epsilon), not {self.noising.config.prediction_type!r}")
        self._learn(freeze_base)  # in float32 from here on, so that no weight is rounded
        self.untrained = not (found or own)
        if not self.untrained:
            _fill(self.unet, found or own)
        if gradient_checkpointing:
            self.enable_gradient_checkpointing()
        self.sampling, self.dropping = sampling, dropping
        self.label_share, self.caption_drop = label_share, caption_drop
        self.object_attention = object_attention
        self.snr_gamma, self.noise_offset = snr_gamma, noise_offset

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """The error of the noise that is predicted from noisy latents, mean over the batch.

        Raises:
            ValueError: the images' sides are not multiples of 8.
        """
        height, width = batch.images.shape[2:]
        draws = draw(
            batch.seeds,
            self._latent_shape(height, width),
            self.noising.config.num_train_timesteps,
            caption_drop=self.caption_drop,
            noise_offset=self.noise_offset,
        )
        device = self.unet.device
        latents = self.encode(batch.images, draws.posterior)
        noise, timesteps = draws.noise.to(device), draws.timesteps.to(device)
        noisy = self.noising.add_noise(latents, noise, timesteps)
        said = ["" if gone else x for gone, x in zip(draws.caption_dropped, batch.captions, strict=True)]
        features, _ = self.text.encode_captions(said)
        locations, texts, kept = self._shown(batch.layouts, batch.seeds, height, width)
        with self._autocast():
            prediction = self.predict(noisy, timesteps, features, self.tokens(locations, texts, kept))
        wanted = target(self.noising, latents, noise, timesteps)
        return diffusion_loss(prediction, wanted, timesteps, self.noising, self.snr_gamma)

    @torch.no_grad()
    def sample(
        self, captions: Sequence[str], layouts: Sequence[Layout], seeds: Sequence[int], *, height: int, width: int
    ) -> Images:
        """One image per layout, each from its own seed.

        Raises:
            ValueError: the size is not a multiple of 8, or there are not as many captions, layouts and seeds.
        """
        check_counts(captions, layouts, seeds)
        shape = self._latent_shape(height, width)
        if not seeds:
            return torch.zeros(0, 3, height, width, dtype=torch.uint8)
        was_training = self.training
        self.eval()
        try:
            # on the CPU, so that no device draws other numbers
            noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(x)) for x in seeds])
            with self._autocast():
                latents = self._draw(captions, layouts, seeds, noise.to(self.unet.device), height, width)
            return torch.cat([self.decode(x[None]) for x in latents])
        finally:
            self.train(was_training)

    def _draw(
        self,
        captions: Sequence[str],
        layouts: Sequence[Layout],
        seeds: Sequence[int],
        noise: Float[Tensor, "b c h w"],
        height: int,
        width: int,
    ) -> Float[Tensor, "b c h w"]:
        """Latents of images; inputs of single instances follow those of whole layouts."""
        how = self.sampling
        found = [self._locate(x, seed, height, width) for x, seed in zip(layouts, seeds, strict=True)]
        said = [said_of(x) for x in layouts]
        prompts, inputs, instances_of = list(captions), list(zip(found, said, strict=True)), []
        if int(how.num_inference_steps * how.mis):
            for image, (places, texts) in enumerate(zip(found, said, strict=True)):
                prompts += texts
                inputs += [(places.only(i), [text]) for i, text in enumerate(texts)]
                instances_of += [image] * len(texts)
        predict = Guided(self, prompts, inputs, self.sampling)
        guided = how.guidance_scale != 1
        return sampler.sample(
            predict,
            noise,
            instances_of,
            steps=how.num_inference_steps,
            mis=how.mis,
            alpha=how.alpha,
            max_batch=None if how.max_batch is None else max(how.max_batch // (1 + guided), 1),
        )

    def predict(
        self,
        latents: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"] | int,
        features: Float[Tensor, "b t d"],
        tokens: GroundingTokens,
    ) -> Float[Tensor, "b c h w"]:
        """The noise in latents."""
        kind = self.unet.dtype
        grounding = {"gligen": {"grounding": tokens}}
        return self.unet(latents.to(kind), timesteps, features.to(kind), cross_attention_kwargs=grounding).sample

    def _shown(
        self, layouts: Sequence[Layout], seeds: Sequence[int], height: int, width: int
    ) -> tuple[list[Locations], list[list[str]], Bool[Tensor, "b 4"]]:
        """What training shows of each image, drawn from the image's own seed."""
        locations, texts, kept = [], [], []
        for layout, seed in zip(layouts, seeds, strict=True):
            random = _random(seed)
            generator = torch.Generator().manual_seed(int(random.integers(2**63)))
            (shown,) = self.dropping.draw(1, generator)
            if not shown.any():
                layout = Layout.empty()
            labelled = random.random(len(layout)) < self.label_share
            places = self._places(layout, height, width, random, from_masks=bool(shown[2]))
            if shown.any() and not (shown & places.types).any():  # what it was to show is not there
                shown = torch.tensor([True, False, False, False])
            texts.append([b if x else a for x, a, b in zip(labelled, said_of(layout), layout.labels, strict=True)])
            locations.append(places)
            kept.append(shown)
        return locations, texts, torch.stack(kept)

    def _locate(self, layout: Layout, seed: int, height: int, width: int) -> Locations:
        if "mask" not in self.sampling.conditions:
            layout = replace(layout, masks=None)
        return self._places(layout, height, width, _random(seed))

    def _places(
        self, layout: Layout, height: int, width: int, random: np.random.Generator, from_masks: bool = False
    ) -> Locations:
        grids = []
        if self.object_attention:
            grids = attention_grids(self.unet, height // self.cell, width // self.cell)
        return locate(
            layout, height, width, random=random, resolution=self._resolution, from_masks=from_masks, grids=grids
        )

    @property
    def _resolution(self) -> int | None:
        """The side of the masks that the tokenizer reads; None if it reads none."""
        return getattr(self.unet.position_net, "resolution", None)

    def tokens(
        self, locations: Sequence[Locations], texts: Sequence[Sequence[str]], kept: Bool[Tensor, "b 4"]
    ) -> GroundingTokens:
        """Grounding tokens of a batch, each text read once."""
        distinct = list(dict.fromkeys(text for said in texts for text in said))
        pooled = self.text.encode_phrases(distinct)
        numbers = {text: i for i, text in enumerate(distinct)}
        features = [pooled[[numbers[text] for text in said]] for said in texts]
        packed = self.unet.position_net.packed
        instances = collate(locations, features, slots=0 if packed else SLOTS, kept=kept)
        # what learns is in float32, and coordinates want it
        tokens = self.unet.position_net(instances.to(self.unet.device, torch.float32))
        most = instances.valid.shape[1]
        if packed or most == SLOTS:
            return tokens
        # an image has the slots that it would have alone, whatever else is in the batch
        kinds = 1 if self._resolution is None else len(KINDS)
        counts = instances.valid.sum(1, keepdim=True).clamp(min=SLOTS)
        own = (torch.arange(most) < counts).repeat(1, kinds)
        own = nn.functional.pad(own, (0, tokens.tokens.shape[1] - own.shape[1]), value=True)
        return replace(tokens, valid=own.to(tokens.tokens.device))


def _random(seed: int) -> np.random.Generator:
    """Of an image: other numbers than those that its noise is made of."""
    return np.random.default_rng([seed % 2**64, 1])


def _width(unet: Any) -> int:
    width = unet.config.cross_attention_dim
    return width if isinstance(width, int) else width[0]


def _read(source: str | Path, revision: str, file: str) -> dict[str, Tensor]:
    """Weights of an adapter, by the released names or ours."""
    path = Path(source).expanduser()
    if path.is_dir() and not (path / file).exists():
        return read_weights(path)
    return read_tensors(Checkpoint(str(source), revision, (file,)).path())


def _fill(unet: Any, tensors: Mapping[str, Tensor]) -> None:
    """Weights of ours may lack null vectors where no tokens are made of them: they were not trained."""
    given = {name.removeprefix("unet."): x for name, x in tensors.items()}
    if unet.position_net.packed and not is_published(given):
        nulls = {name: x for name, x in adapter_parameters(unet).items() if ".null_" in name}
        given = {**{name: x.detach() for name, x in nulls.items()}, **given}
    load(unet, given)
