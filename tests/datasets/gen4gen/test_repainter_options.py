"""Each repainter's option says all its settings, with the values they have by default."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

FOLDER = Path(__file__).parents[3] / "conf" / "dataset" / "gen4gen" / "repainter"


@pytest.mark.parametrize("name", ["blend", "sdxl_inpaint"])
def test_an_option_has_each_setting_with_its_default(name):
    option = OmegaConf.load(FOLDER / f"{name}.yaml")
    defaults = {k: v.default for k, v in inspect.signature(get_object(option._target_)).parameters.items()}
    assert OmegaConf.to_container(option) == {"_target_": option._target_, **defaults}
    assert instantiate(option).repaint([]) == []
