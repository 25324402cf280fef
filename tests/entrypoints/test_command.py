"""What commands do to their arguments before Hydra reads them."""

import pytest

from scenewright.entrypoints.command import own_experiments, quoted_patterns


@pytest.mark.parametrize(
    ("command", "given", "meant"),
    [
        ("train", "experiment=embedded", "experiment=train/embedded"),
        ("generate", "experiment=embedded", "experiment=generate/embedded"),
        ("train", "experiment=embedded,rich_context_sdxl", "experiment=train/embedded,train/rich_context_sdxl"),
        ("train", "experiment=of_a_plugin", "experiment=of_a_plugin"),
        ("train", "layout_model=tiny", "layout_model=tiny"),
        ("train", "--help", "--help"),
    ],
)
def test_a_recipe_of_a_command_is_called_by_its_name(command, given, meant):
    assert own_experiments(command, [given]) == [meant]


def test_patterns_with_braces_are_quoted_and_containers_are_not():
    given = ["dataset.shards=cc3m/{00000..00331}.tar", "filter=[area]", "ema={decay: 0.9}"]
    assert quoted_patterns(given) == ["dataset.shards='cc3m/{00000..00331}.tar'", *given[1:]]
