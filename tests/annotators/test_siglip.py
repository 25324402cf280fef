"""SigLIP with small random weights, in both of its architectures."""

import pytest
import torch

from scenewright.annotators.taggers.siglip import SigLIP
from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout import decode
from scenewright.protocols import Tagger

NAMES = ["ant", "bee", "cow", "dog", "eel", "fox"]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", *NAMES, "this", "is", "a", "photo", "of", "."]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="<pad>")


def save(path, model, processor):
    with torch.no_grad():
        model.logit_scale.fill_(2.0)  # trained ones are sharp; random features need it, to differ
        model.logit_bias.fill_(-1.0)
        model.text_model.embeddings.token_embedding.weight.normal_(generator=torch.Generator().manual_seed(5))
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def siglip(tmp_path_factory):
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    text = SIZES | {"vocab_size": 20, "max_position_embeddings": 64, "projection_size": 16, "pad_token_id": 0}
    config = SiglipConfig(text_config=text, vision_config=SIZES | {"image_size": 32, "patch_size": 8})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SiglipModel(config)
    processor = SiglipProcessor(SiglipImageProcessor(size={"height": 32, "width": 32}), tokenizer())
    return save(tmp_path_factory.mktemp("siglip"), model, processor)


@pytest.fixture(scope="session")
def siglip2(tmp_path_factory):
    """The one that keeps the aspect ratio: its pictures are patches, and are masked."""
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model, Siglip2Processor

    text = SIZES | {"vocab_size": 20, "max_position_embeddings": 64, "projection_size": 16, "pad_token_id": 0}
    config = Siglip2Config(text_config=text, vision_config=SIZES | {"num_patches": 16, "patch_size": 8})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Siglip2Model(config)
    processor = Siglip2Processor(Siglip2ImageProcessor(patch_size=8, max_num_patches=16), tokenizer())
    return save(tmp_path_factory.mktemp("siglip2"), model, processor)


@pytest.fixture(params=["siglip", "siglip2"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def images(picture):
    return [decode(picture("PNG", size=size, seed=i)) for i, size in enumerate([(90, 40), (33, 70), (64, 64)])]


def probabilities(folder, image):
    """Straight from transformers, one image at a time."""
    from transformers import AutoModel, AutoProcessor

    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    text = [f"this is a photo of {name}." for name in NAMES]
    tokens = processor.tokenizer(text, padding="max_length", max_length=64, return_tensors="pt")
    inputs = processor.image_processor([image], return_tensors="pt")
    with torch.inference_mode():
        return model(input_ids=tokens["input_ids"], **inputs).logits_per_image[0].sigmoid()


def test_no_image_has_no_tags(folder):
    assert SigLIP(str(folder), tags=NAMES).tag([]) == []
    assert isinstance(SigLIP(), Tagger)


def test_tags_are_those_that_transformers_holds_for_likely(folder, images):
    for image in images:
        scores = probabilities(folder, image)
        ranked = scores.sort().values
        gap = int(ranked.diff().argmax())  # the widest, so that noise moves no score across
        assert ranked[gap + 1] - ranked[gap] > 1e-4
        threshold = float(ranked[gap : gap + 2].mean())
        wanted = [name for name, score in zip(NAMES, scores, strict=True) if score > threshold]
        assert 0 < len(wanted) < 6
        assert SigLIP(str(folder), tags=NAMES, threshold=threshold).tag([image]) == [wanted]
        ((best,),) = SigLIP(str(folder), tags=NAMES, threshold=0.0, max_tags=1).tag([image])
        torch.testing.assert_close(scores[NAMES.index(best)], ranked[-1], atol=1e-4, rtol=0)


def test_an_images_tags_do_not_depend_on_its_batch(folder, images):
    tagger = SigLIP(str(folder), tags=NAMES, threshold=0.0, max_tags=3, batch_size=2, text_batch_size=4)
    together = tagger.tag(images)
    assert together == [tagger.tag([x])[0] for x in images] == tagger.tag(images)
    assert [len(x) for x in together] == [3, 3, 3] and all(x == sorted(x) for x in together)
    singles = torch.cat([tagger._probabilities([x]) for x in images])
    torch.testing.assert_close(tagger._probabilities(images), singles, atol=1e-4, rtol=0)


def test_nothing_likely_is_no_tag(folder, images):
    assert SigLIP(str(folder), tags=NAMES, threshold=1.0).tag(images) == [[], [], []]


def test_half_precision_runs(folder, images):
    assert len(SigLIP(str(folder), tags=NAMES, dtype="bfloat16").tag(images)) == 3


def test_texts_are_encoded_once_and_in_batches(siglip, images):
    tagger = SigLIP(str(siglip), tags=NAMES, text_batch_size=4)
    calls = []
    handle = tagger._network.text_model.register_forward_hook(lambda _m, _i, output: calls.append(len(output[0])))
    tagger.tag(images)
    tagger.tag(images)
    handle.remove()
    assert calls == [4, 2]


def test_the_list_may_be_a_file_and_is_rams_by_default(siglip, tmp_path, images):
    (tmp_path / "tags.txt").write_text("\n".join(NAMES))
    given = SigLIP(str(siglip), tags=NAMES, threshold=0.0).tag(images)
    assert SigLIP(str(siglip), tags=str(tmp_path / "tags.txt"), threshold=0.0).tag(images) == given
    names = SigLIP(str(siglip))._names
    assert len(names) == 4575 and "body" not in names
    with pytest.raises(MissingWeights, match="the tag list none.txt is not there"):
        SigLIP(str(siglip), tags="none.txt").tag(images)
    with pytest.raises(CheckpointError, match="tags must hold names"):
        SigLIP(str(siglip), tags=[]).tag(images)


def test_a_model_that_is_no_siglip_is_refused(siglip, tmp_path, images):
    from transformers import CLIPConfig, CLIPModel

    tower = SIZES | {"projection_dim": 8}
    config = CLIPConfig(
        text_config=tower | {"vocab_size": 20, "eos_token_id": 2},
        vision_config=tower | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is no SigLIP, but CLIPModel"):
        SigLIP(str(tmp_path), tags=NAMES).tag(images)
    with pytest.raises(MissingWeights, match=r"has no config.json"):
        SigLIP(str(tmp_path / ".."), tags=NAMES).tag(images)
