"""The grounding tokenizer of InstanceDiffusion: what is known of where each instance is, as tokens.

An instance has up to four tokens, of its box, point, scribble and polygon; all masks of an image together have 64
more. Parameters are named as in the released weights, but for the backbone, which is that of transformers:
``from_published`` and ``to_published`` rename it.

Source: Wang et al. 2024, arXiv 2402.03290, section 3.2 (UniFusion).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from scenewright.layout_models.instance_diffusion.fourier import fourier_code
from scenewright.layout_models.instance_diffusion.gated_attention import GroundingTokens, ObjectMasks

#: Kinds of tokens of an instance: name, coordinates, null vector, and the column of ``Instances.kept``.
KINDS = (
    ("boxes", 4, "null_position_feature", 0),
    ("points", 2, "null_point_feature", 1),
    ("scribbles", 40, "null_scribble_feature", 2),
    ("polygons", 512, "null_polygon_feature", 3),
)

#: The columns of ``Instances.kept``; a mask is the polygon and the segmentation tokens.
TYPES = ("box", "point", "scribble", "mask")

#: Names of the backbone's parameters: as published, as in transformers.
_BACKBONE = (
    (r"downsample_layers\.0\.0\.", "embeddings.patch_embeddings."),
    (r"downsample_layers\.0\.1\.", "embeddings.layernorm."),
    (r"downsample_layers\.([1-9])\.([01])\.", r"encoder.stages.\1.downsampling_layer.\2."),
    (r"stages\.(\d+)\.(\d+)\.gamma", r"encoder.stages.\1.layers.\2.layer_scale_parameter"),
    (r"stages\.(\d+)\.(\d+)\.norm\.", r"encoder.stages.\1.layers.\2.layernorm."),
    (r"stages\.(\d+)\.(\d+)\.(dwconv|pwconv1|pwconv2)\.", r"encoder.stages.\1.layers.\2.\3."),
)
_PREFIX = "convnext_tiny_backbone."


@dataclass(frozen=True, eq=False)
class Instances:
    """The instances of a batch, padded to the most that an image has; padding is zeros.

    Coordinates are x, y in fractions of the image. A scribble, polygon or mask of zeros is one that is not there.

    Attributes:
        text: ``(b, n, c)``, the feature of each instance's text.
        boxes: ``(b, n, 4)``, ``x_min y_min x_max y_max``.
        valid: ``(b, n)``, which slots hold an instance.
        points: ``(b, n, 2)``; None for the centres of the boxes.
        scribbles: ``(b, n, 40)``, 20 points; None for no scribbles.
        polygons: ``(b, n, 512)``, 256 points on and in the mask; None for no polygons.
        masks: ``(b, n, h, w)``, of one size for all; None for no masks.
        kept: ``(b, 4)``, which of ``TYPES`` each image shows, none at all for no grounding; None for all that
            there is.
        cells: ``(b, n, l)`` by number of pixels l of a grid, to restrict attention to objects; None not to.
    """

    text: Float[Tensor, "b n c"]
    boxes: Float[Tensor, "b n 4"]
    valid: Bool[Tensor, "b n"]
    points: Float[Tensor, "b n 2"] | None = None
    scribbles: Float[Tensor, "b n 40"] | None = None
    polygons: Float[Tensor, "b n 512"] | None = None
    masks: Shaped[Tensor, "b n h w"] | None = None
    kept: Bool[Tensor, "b 4"] | None = None
    cells: Mapping[int, Bool[Tensor, "b n _l"]] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Instances:
        """The same on ``device``, texts in ``dtype``; coordinates keep their precision."""

        def moved(x: object) -> object:
            if isinstance(x, Mapping):
                return {key: value.to(device) for key, value in x.items()}
            return x.to(device) if isinstance(x, Tensor) else x

        there = replace(self, **{f.name: moved(getattr(self, f.name)) for f in fields(self)})
        return replace(there, text=there.text.to(dtype))

    def coordinates(self, name: str, width: int) -> Float[Tensor, "b n d"]:
        """Of one of ``KINDS``; zeros where there are none."""
        given = getattr(self, name)
        if given is None and name == "points":
            return (self.boxes[..., :2] + self.boxes[..., 2:]) / 2
        return self.boxes.new_zeros(*self.valid.shape, width) if given is None else given

    def shown(self, column: int) -> Bool[Tensor, " b"]:
        """Which images show this one of ``TYPES``."""
        return self.valid.new_ones(len(self)) if self.kept is None else self.kept[:, column]


class UniFusion(nn.Module):
    """Instances to grounding tokens: one MLP for each kind of location, over its Fourier code and the text.

    Tokens are packed by default: there is one for each instance and kind that is there, and 64 for an image that has
    masks. ``packed=False`` arranges them as the released weights were trained with: all kinds of all slots, boxes,
    points, scribbles, polygons, and then 64 of the masks; a learnt null vector stands for a location that is not
    there. Both read an instance without a scribble or a polygon as one without; the released code takes it for one at
    the image's corner, which ``compat=True`` does too, along with its arrangement.

    Masks are read by their number: the backbone's input has ``channels`` slots. Further masks are left out, with a
    warning; those instances keep all other tokens.

    Args:
        in_dim: channels of a text feature.
        out_dim: channels of a token.
        mid_dim: channels in the MLPs.
        bands: frequencies of the Fourier code.
        channels: masks that the backbone can read.
        resolution: side to which masks are resized, by nearest neighbour.
        depths: blocks of each stage of the ConvNeXt.
        dims: channels of each stage.
        packed: only tokens of what is there.
        compat: the released code's arrangement and its reading of absent scribbles and polygons.

    Source: arXiv 2402.03290, section 3.2 and appendix.
    """

    def __init__(
        self,
        in_dim: int = 768,
        out_dim: int = 768,
        mid_dim: int = 3072,
        *,
        bands: int = 16,
        channels: int = 30,
        resolution: int = 512,
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        packed: bool = True,
        compat: bool = False,
    ) -> None:
        super().__init__()
        self.bands, self.channels, self.resolution = bands, channels, resolution
        self.packed, self.compat = packed and not compat, compat
        self.out_dim, self.segment_dim = out_dim, 4 * dims[-1]
        self.in_conv = nn.Conv2d(channels, 3, 3, padding=1)
        self.convnext_tiny_backbone = _convnext(depths, dims)
        widths = [in_dim + 2 * bands * width for _, width, _, _ in KINDS] + [self.segment_dim]
        self.linears_list = nn.ModuleList(_mlp(width, mid_dim, out_dim) for width in widths)
        self.null_positive_feature = nn.Parameter(torch.zeros(in_dim))
        for _, width, null, _ in KINDS:
            self.register_parameter(null, nn.Parameter(torch.zeros(2 * bands * width)))
        self.null_seg_feature = nn.Parameter(torch.zeros(self.segment_dim))
        tokens = (resolution // 32) ** 2 // 4
        self.pos_embedding = nn.Parameter(torch.empty(1, tokens, self.segment_dim).normal_(std=0.02))

    def forward(self, grounding: Instances | GroundingTokens) -> GroundingTokens:
        """The tokens of a batch; tokens that are made already are given back, so that a sampler makes them once."""
        if isinstance(grounding, GroundingTokens):
            return grounding
        return self._packed(grounding) if self.packed else self._arranged(grounding)

    def _packed(self, instances: Instances) -> GroundingTokens:
        found, sample, owner = [], [], []
        for i, (name, width, _, column) in enumerate(KINDS):
            coordinates = instances.coordinates(name, width)
            there = instances.valid & instances.shown(column)[:, None] & self._given(name, coordinates)
            rows, slots = there.nonzero(as_tuple=True)
            code = fourier_code(coordinates[rows, slots], self.bands)
            found.append(self.linears_list[i](torch.cat([instances.text[rows, slots], code.to(instances.text)], -1)))
            sample.append(rows)
            owner.append(slots if _owned(name) else torch.full_like(slots, -1))
        rows, segments = self._segments_of(instances)
        found.append(segments.flatten(0, 1))
        sample.append(rows.repeat_interleave(segments.shape[1]))
        owner.append(torch.full_like(sample[-1], -1))
        return self._collected(instances, torch.cat(found), torch.cat(sample), torch.cat(owner))

    def _collected(
        self, instances: Instances, found: Float[Tensor, "k c"], sample: Int[Tensor, " k"], owner: Int[Tensor, " k"]
    ) -> GroundingTokens:
        """Tokens of all images, in any order, as rows of one image each."""
        counts = torch.bincount(sample, minlength=len(instances))
        rows = counts.nonzero()[:, 0]
        order = torch.argsort(sample, stable=True)
        counts = counts[rows]
        valid = torch.arange(int(counts.max()) if len(rows) else 0, device=counts.device) < counts[:, None]
        place = valid.flatten().nonzero()[:, 0]
        tokens = found.new_zeros(valid.numel(), self.out_dim).index_copy(0, place, found[order])
        owners = owner.new_full((valid.numel(),), -1).index_copy(0, place, owner[order]).view(valid.shape)
        return GroundingTokens(
            tokens.view(*valid.shape, self.out_dim),
            valid=None if valid.all() else valid,
            rows=None if len(rows) == len(instances) else rows,
            objects=self._objects(instances, rows, owners),
        )

    def _arranged(self, instances: Instances) -> GroundingTokens:
        named = instances.valid
        if instances.kept is not None:  # an image that shows nothing does not even tell what is in it
            named = named & instances.kept.any(1, keepdim=True)
        text = torch.where(named[..., None], instances.text, self.null_positive_feature)
        found = []
        for i, (name, width, null, column) in enumerate(KINDS):
            coordinates = instances.coordinates(name, width)
            there = self._given(name, coordinates)
            there = self._taken(name, instances.valid, coordinates) if self.compat else there & instances.valid
            there = (there & instances.shown(column)[:, None])[..., None]
            code = torch.where(there, fourier_code(coordinates, self.bands).to(text), getattr(self, null))
            found.append(self.linears_list[i](torch.cat([text, code], -1)))
        rows, segments = self._segments_of(instances)
        absent = self.linears_list[-1](self.null_seg_feature + self.pos_embedding)
        found.append(absent.expand(len(instances), -1, -1).index_copy(0, rows, segments))
        each = torch.arange(instances.valid.shape[1], device=rows.device)
        none = torch.full_like(each, -1)
        owners = [each if _owned(name) else none for name, *_ in KINDS]
        owners = torch.cat([*owners, none.new_full((segments.shape[1],), -1)]).expand(len(instances), -1)
        everyone = torch.arange(len(instances), device=rows.device)
        return GroundingTokens(torch.cat(found, 1), objects=self._objects(instances, everyone, owners))

    @staticmethod
    def _given(name: str, coordinates: Float[Tensor, "b n d"]) -> Bool[Tensor, "b n"]:
        if name in ("boxes", "points"):
            return coordinates.new_ones(coordinates.shape[:2], dtype=torch.bool)
        return (coordinates != 0).any(-1)

    @staticmethod
    def _taken(name: str, valid: Bool[Tensor, "b n"], coordinates: Float[Tensor, "b n d"]) -> Bool[Tensor, "b n"]:
        return valid if name in ("boxes", "points") else coordinates.sum(-1) + valid > 0

    def _segments_of(self, instances: Instances) -> tuple[Int[Tensor, " r"], Float[Tensor, "r s c"]]:
        """The images that show masks, and the tokens of these."""
        masks = instances.masks
        if masks is None:
            masks = instances.valid.new_zeros(*instances.valid.shape, 1, 1)
        masks = self._first(masks != 0)
        rows = (masks.flatten(1).any(1) & instances.shown(3)).nonzero()[:, 0]
        features = self.segment_features(masks[rows])
        return rows, self.linears_list[-1](features + self.pos_embedding)

    def _first(self, masks: Bool[Tensor, "b n h w"]) -> Bool[Tensor, "b k h w"]:
        """As many masks as the backbone reads, absent ones empty."""
        further = masks[:, self.channels :]
        if further.any():
            warnings.warn(
                f"the backbone reads {self.channels} masks, an image has {int(masks.flatten(2).any(2).sum(1).max())}: "
                "further masks are left out",
                stacklevel=2,
            )
        return pad(masks[:, : self.channels], (0, 0, 0, 0, 0, max(self.channels - masks.shape[1], 0)))

    def segment_features(self, masks: Bool[Tensor, "r k h w"]) -> Float[Tensor, "r s c"]:
        """What the backbone sees in all masks of an image.

        Its output ``(c, 16, 16)`` is read as ``(4c, 64)`` in the order of memory, so each token mixes four groups of
        rows; the weights want it so.
        """
        features = self.backbone_features(masks)
        return features.reshape(len(masks), self.segment_dim, self.pos_embedding.shape[1]).transpose(1, 2)

    def backbone_features(self, masks: Bool[Tensor, "r k h w"]) -> Float[Tensor, "r c gh gw"]:
        """The last feature map of the ConvNeXt, at a 32nd of ``resolution``."""
        resized = interpolate(masks.to(self.in_conv.weight.dtype), (self.resolution, self.resolution))
        backbone: Any = self.convnext_tiny_backbone
        return backbone.encoder(backbone.embeddings(self.in_conv(resized))).last_hidden_state

    def _objects(self, instances: Instances, rows: Int[Tensor, " m"], owners: Int[Tensor, "m t"]) -> ObjectMasks | None:
        if instances.cells is None:
            return None
        # masks say where instances are, so an image that shows neither boxes nor masks is not restricted by them
        shown = (instances.shown(0) | instances.shown(3))[:, None] & instances.valid
        cells = {pixels: (x & shown[..., None])[rows] for pixels, x in instances.cells.items()}
        return ObjectMasks(cells, owners, background=not self.compat)


def _owned(name: str) -> bool:
    return name in ("boxes", "polygons")


def _mlp(width: int, middle: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, middle), nn.SiLU(), nn.Linear(middle, middle), nn.SiLU(), nn.Linear(middle, out)
    )


def _convnext(depths: Sequence[int], dims: Sequence[int]) -> nn.Module:
    from transformers import ConvNextConfig, ConvNextModel

    config = ConvNextConfig(num_channels=3, depths=list(depths), hidden_sizes=list(dims), num_stages=len(dims))
    network = ConvNextModel(config)
    del network.layernorm  # of the classifier's pooled feature
    return network


def from_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UniFusion's weights by the names of this module, from the released ones; other names stay as they are."""
    return {_renamed(name): x for name, x in tensors.items()}


def _renamed(name: str) -> str:
    head, prefix, rest = name.rpartition(_PREFIX)
    for theirs, ours in _BACKBONE:
        if prefix and re.match(theirs, rest):
            return head + prefix + re.sub(theirs, ours, rest)
    return name


def to_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UniFusion's weights by the released names, from those of this module; other names stay as they are."""
    return {_published(name): x for name, x in tensors.items()}


def _published(name: str) -> str:
    head, prefix, rest = name.rpartition(_PREFIX)
    if not prefix:
        return name
    stage = re.match(r"encoder\.stages\.(\d+)\.(downsampling_layer|layers)\.(.*)", rest)
    if stage is None:
        rest = rest.replace("embeddings.patch_embeddings.", "downsample_layers.0.0.")
        return head + prefix + rest.replace("embeddings.layernorm.", "downsample_layers.0.1.")
    number, part, rest = stage.groups()
    if part == "downsampling_layer":
        return f"{head}{prefix}downsample_layers.{number}.{rest}"
    rest = rest.replace("layer_scale_parameter", "gamma").replace("layernorm.", "norm.")
    return f"{head}{prefix}stages.{number}.{rest}"
