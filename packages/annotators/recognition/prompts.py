"""Tags of one's own, as text features: what RAM++ needs for classes that it was not trained on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from scenewright.annotators.recognition.tags import read_names
from scenewright.batching import in_batches
from scenewright.checkpoints import Checkpoint, CheckpointError, MissingWeights

_LOOKS = ("good", "bad", "bright", "dark", "low resolution", "cropped", "close-up", "jpeg corrupted", "blurry")
_LOOKS += ("pixelated", "black and white")
_KINDS = ("nice", "cool", "weird", "small", "large", "clean", "dirty", "hard to see")
_MADE = ("plastic", "toy", "plushie", "cartoon", "embroidered")


def sentences(tag: str) -> list[str]:
    """The 63 sentences about a tag whose mean feature stands for it.

    Source: the prompts of CLIP (arXiv 2103.00020) and ViLD (arXiv 2104.13921), in the wording of recognize-anything's
        open-set mode.
    """
    name = tag.replace("_", " ").replace("/", " or ").lower().strip().rstrip(".")
    article = "an" if name[:1] in tuple("aeiou") else "a"
    photos = [f"a photo of {x} {name}" for x in (article, "my", "the", "one", "many")]
    photos += [f"a photo of {x} {name} in the scene" for x in (article, "the", "one")]
    photos += [f"a {look} photo of {x} {name}" for look in _LOOKS for x in (article, "the")]
    photos += [f"a photo of {x} {kind} {name}" for kind in _KINDS for x in ("a", "the")]
    photos += [f"{x} {made} {name}" for made in _MADE for x in ("an" if made[0] == "e" else "a", "the")]
    photos += [f"a painting of {x} {name}" for x in ("the", "a")]
    others = [f"There is {x} {name} in the scene." for x in (article, "the")]
    others += [f"itap of {x} {name}." for x in (article, "my", "the")]  # "I took a picture"
    return others + [f"This is {photo}." for photo in photos]


def read_vocabulary(tags: Mapping[str, Sequence[str]] | Sequence[str] | str) -> dict[str, list[str]]:
    """What is said of each tag: its descriptions, or the sentences above where only its name is given.

    Args:
        tags: names; or descriptions by name; or the path of a text file with a name per line, or of a JSON file with
            descriptions by name (upstream's own, a list of tables with one name each, too).

    Raises:
        MissingWeights: the file is not there.
        CheckpointError: there is no tag, or one without a description.
    """
    given = _from_file(Path(tags).expanduser()) if isinstance(tags, str) else tags
    if not isinstance(given, Mapping):
        given = {name: sentences(name) for name in given}
    vocabulary = {str(name): [str(x) for x in texts] for name, texts in given.items()}
    bare = [name for name, texts in vocabulary.items() if not texts or not name.strip()]
    if bare or not vocabulary:
        raise CheckpointError(f"tags must name things and describe each, got {len(vocabulary)}, of them bare: {bare}")
    return vocabulary


def _from_file(path: Path) -> Mapping[str, Sequence[str]] | Sequence[str]:
    if path.suffix != ".json":
        return read_names(path)
    if not path.is_file():
        raise MissingWeights(f"the descriptions {path} are not there; they must be a JSON file")
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return known if isinstance(known, Mapping) else {name: texts for row in known for name, texts in row.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} must hold a list of descriptions for each name: {error}") from error


def text_features(
    vocabulary: Mapping[str, Sequence[str]],
    checkpoint: Checkpoint,
    width: int,
    device: torch.device,
    batch_size: int = 256,
) -> Float[Tensor, "n width"]:
    """One feature of length 1 for each tag: the mean over its sentences.

    Args:
        checkpoint: of a CLIP; RAM and RAM++ were trained with OpenAI's ViT-B/16.
        width: that the features must have.

    Raises:
        CheckpointError: the CLIP cannot be loaded, or its features have another width.
    """
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    # OpenAI's own repository has no safetensors; its tensors are then read without running code
    model = checkpoint.load(CLIPTextModelWithProjection, use_safetensors=None).to(device).eval()
    tokenizer = checkpoint.load(AutoTokenizer)
    if model.config.projection_dim != width:
        raise CheckpointError(
            f"{checkpoint.name} gives text features of {model.config.projection_dim} numbers; {width} are needed"
        )

    def encode(texts: list[str]) -> tuple[Tensor, ...]:
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt").to(device)
        return normalize(model(**tokens).text_embeds.float(), dim=-1).unbind()

    texts = [text for said in vocabulary.values() for text in said]
    with torch.inference_mode():
        features = torch.stack(in_batches(encode, texts, batch_size))
        means = [x.mean(0) for x in features.split([len(said) for said in vocabulary.values()])]
        return normalize(torch.stack(means), dim=-1)
