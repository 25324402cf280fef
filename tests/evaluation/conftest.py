"""A small feature network for sets of images, what torch-fidelity itself says with it, and a browser for pages."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from scenewright.layout import Sample


class SmallNetwork:
    """A random layer on a coarse picture: 12 features and 7 logits of any image."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.seen = 0  # images

    @property
    def settings(self) -> dict[str, str]:
        return {"network": "SmallNetwork", "resize": "mean 4"}

    def digest(self) -> str:
        return f"seed {self.seed}"

    def features(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._both(images)[:, :12]

    def logits(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._both(images)[:, 12:]

    def _both(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        self.seen += len(images)
        weights = torch.randn(48, 19, generator=torch.Generator().manual_seed(self.seed)) * 0.3
        coarse = [torch.nn.functional.adaptive_avg_pool2d(x.float() / 64 - 2, 4).flatten() for x in images]
        return torch.stack([x @ weights for x in coarse]) if coarse else torch.zeros(0, 19)


@pytest.fixture
def small_network() -> type[SmallNetwork]:
    return SmallNetwork


@pytest.fixture
def scenes() -> Callable[..., list[Sample]]:
    """``scenes(9, seed=1, shift=20)``: samples of smooth random pictures, brighter by ``shift`` on average."""

    def made(n: int, seed: int = 0, shift: int = 0, size: int = 16) -> list[Sample]:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.randint(0, 200, (n, 3, 4, 4), generator=generator).float() + shift
        pictures = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").to(torch.uint8)
        return [Sample.from_image(f"{seed}-{i:03}", x) for i, x in enumerate(pictures)]

    return made


@pytest.fixture
def fidelity(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, float]]:
    """``fidelity(images, others, fid=True)``: torch-fidelity's own command, with the small network in it."""
    from torch_fidelity import calculate_metrics, registry
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Extractor(FeatureExtractorBase):
        def __init__(self, name, features_list, **settings):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return "features", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "logits" if metric == "isc" else "features"

        def forward(self, input):
            every = {"features": SmallNetwork().features(input), "logits": SmallNetwork().logits(input)}
            return tuple(every[x] for x in self.features_list)

    class Pictures(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

        def __getitem__(self, i):
            return self.images[i]

    monkeypatch.setitem(registry.FEATURE_EXTRACTORS_REGISTRY, "small", Extractor)

    def measured(*sets: Sequence[torch.Tensor], **wanted) -> dict[str, float]:
        inputs = {f"input{i + 1}": Pictures(x) for i, x in enumerate(sets)}
        quiet = {"cuda": False, "verbose": False, "save_cpu_ram": True, "cache": False}
        return calculate_metrics(**inputs, **quiet, feature_extractor="small", **wanted)

    return measured


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Any]:
    """A headless Chromium."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver on the PATH")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    off = "gpu quic background-networking component-update sync".split()
    for flag in ("headless", "no-sandbox", "no-first-run", *(f"disable-{name}" for name in off)):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture
def page(browser) -> Iterator[Callable[..., Callable[..., Any]]]:
    """``page(path, width)`` opens a page and returns what runs scripts in it; at the end the console must be empty."""

    def opened(path: Any, width: int = 1440) -> Callable[..., Any]:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(path.as_uri())
        return browser.execute_script

    yield opened
    assert browser.get_log("browser") == []
