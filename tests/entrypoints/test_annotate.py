"""The command as users run it, on folders as users have them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from scenewright.checkpoints import MissingWeights
from scenewright.datasets.shards import Shards, stats, verify
from scenewright.entrypoints.annotating import Annotating, too_many
from scenewright.entrypoints.command import quoted_patterns

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "plugin"


def without_weights(arguments: Sequence[str]) -> list[str]:
    """The embedded annotators, unless an experiment or the help is asked for."""
    asked = any(x.startswith("experiment=") or x == "--help" for x in arguments)
    if asked:
        return [*arguments]
    first = next((i for i, x in enumerate(arguments) if "=" in x), len(arguments))  # overrides stand together
    return [*arguments[:first], "experiment=embedded", *arguments[first:]]


def started(
    *arguments: str, program: str = "annotate", path: Path | None = None, **options
) -> subprocess.CompletedProcess:
    if program == "annotate":
        arguments = tuple(without_weights(arguments))
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, f"entrypoints/{program}.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        **options,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def bomb(png: bytes, side: int) -> bytes:
    """A PNG of a hundred bytes that says it is huge."""
    data = bytearray(png)
    data[16:24] = side.to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


@pytest.fixture
def run(config, monkeypatch, capsys) -> Callable[..., str]:
    """``run(*overrides)`` is the command in this process; it returns what was printed."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def annotated(*overrides: str) -> str:
        run = Annotating(config("annotate", *without_weights(overrides)))
        run.write()
        run.conclude()
        return capsys.readouterr().out

    return annotated


@pytest.fixture
def photos(tmp_path) -> Path:
    """Seven small pictures with something in them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(7):
        image = np.full((72, 96, 3), 40 + 20 * i, np.uint8)
        image[10 + i : 40 + i, 20:60] = (220, 30, 30)
        PILImage.fromarray(image).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def troubled(photos, picture) -> Path:
    """Those, and every kind of trouble."""
    trouble = {
        "zero.jpg": b"",
        "truncated.jpg": picture("JPEG", size=(200, 200))[:2000],
        "text.jpg": b"this is a letter",
        "cmyk.jpg": picture("JPEG", size=(64, 64), mode="CMYK"),
        "palette.png": picture("PNG", size=(64, 64), mode="P", transparency=0),
        "animated.gif": picture("GIF", size=(64, 64), save_all=True, append_images=[PILImage.new("RGB", (64, 64))]),
        "thin.png": picture("PNG", size=(1, 90)),
        "wide.png": picture("PNG", size=(20_000, 8)),
        "a.b c.png": picture("PNG"),
        "写真.png": picture("PNG"),
        "line\nbreak.png": picture("PNG"),
        "one/same.png": picture("PNG", seed=1),
        "two/same.png": picture("PNG", seed=2),
        "bomb.png": bomb(picture("PNG", size=(1, 1)), side=60_000),
    }
    for name, data in trouble.items():
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(data)
    PILImage.fromarray(np.full((40, 40), 30_000, np.uint16)).save(photos / "deep.png")
    exif = PILImage.Exif()
    exif[0x0112] = 6
    (photos / "turned.jpg").write_bytes(picture("JPEG", size=(90, 60), exif=exif))
    os.symlink("nowhere.png", photos / "broken.png")
    (photos / "0.txt").write_bytes(b"caf\xe9")
    return photos


def test_a_troubled_folder_is_annotated_and_every_file_is_accounted_for(run, troubled, tmp_path):
    out = run(
        "dataset=image_folder",
        f"dataset.directory={troubled}",
        f"output_dir={tmp_path / 'out'}",
        "samples_per_shard=10",
    )
    found = stats(tmp_path / "out")
    assert found["images"] == 24 and found["error"] == 5 and found["ok"] + found["empty"] == 19
    assert out.splitlines()[-1].startswith(f"24 images: {found['ok']} ok, {found['empty']} empty, 5 failed · 3 shards")
    statuses = {}
    for sheet in sorted((tmp_path / "out").glob("0*.json")):
        statuses |= json.loads(sheet.read_text())["samples"]
    failed = {key: status.removeprefix("error: ") for key, status in statuses.items() if status.startswith("error")}
    assert failed == {
        "bomb": failed["bomb"],
        "broken": "FileNotFoundError: No such file or directory",
        "text": "the file is not an image",
        "truncated": failed["truncated"],
        "zero": "the file is empty",
    }
    assert "pixels" in failed["bomb"] and "truncated" in failed["truncated"]
    samples = {s.source.name: s for s in Shards(tmp_path / "out")}
    assert samples["turned.jpg"].image.shape == (3, 90, 60) and samples["wide.png"].image.shape == (3, 8, 20_000)
    assert samples["0.png"].caption == "caf\ufffd" and samples["0.png"].warnings
    assert all(s.source.data == (troubled / name).read_bytes() for name, s in samples.items())
    assert list(verify(tmp_path / "out")) == []


def test_photographs_come_out_with_boxes_masks_labels_and_captions(run, photos, tmp_path):
    run("dataset=image_folder", f"dataset.directory={photos}", f"output_dir={tmp_path / 'out'}")
    for sample in Shards(tmp_path / "out"):
        assert sample.tags and sample.caption and len(sample.layout) >= 1
        assert len(sample.layout.captions) == len(sample.layout.masks) == len(sample.layout)
        assert any("red" in caption for caption in sample.layout.captions)


def test_batches_of_one_and_of_seven_give_the_same_bytes(run, photos, tmp_path):
    for size in (1, 7):
        run(
            "dataset=image_folder",
            f"dataset.directory={photos}",
            f"output_dir={tmp_path / str(size)}",
            f"batch_size={size}",
        )
    assert files(tmp_path / "1") == files(tmp_path / "7")


def test_a_stage_alone_runs_over_old_shards(run, photos, tmp_path):
    run("dataset=image_folder", f"dataset.directory={photos}", f"output_dir={tmp_path / 'old'}")
    run(
        "dataset=shards",
        f"dataset.directory={tmp_path / 'old'}",
        "~annotator/tagger",
        "~annotator/detector",
        "~annotator/segmenter",
        "annotator/captioner=appearance",
        f"output_dir={tmp_path / 'new'}",
    )
    for old, new in zip(Shards(tmp_path / "old"), Shards(tmp_path / "new"), strict=True):
        assert (
            new.layout.masks == old.layout.masks and new.layout.captions == old.layout.captions and new.key == old.key
        )


def test_another_configuration_is_refused_with_what_differs(run, photos, tmp_path):
    base = ["dataset=image_folder", f"dataset.directory={photos}", f"output_dir={tmp_path / 'out'}"]
    run(*base)
    with pytest.raises(ValueError, match="config.annotator.detector.max_regions: was 12, is 3"):
        run(*base, "annotator.detector.max_regions=3")
    (photos / "new.png").write_bytes((photos / "0.png").read_bytes())
    with pytest.raises(ValueError, match="source.samples: was 7, is 8"):
        run(*base)


def test_too_many_failures_end_with_exit_code_one(run, photos, tmp_path):
    for i in range(3):
        (photos / f"bad{i}.png").write_bytes(b"bad")
    base = ["dataset=image_folder", f"dataset.directory={photos}"]
    run(*base, f"output_dir={tmp_path / 'a'}")
    with pytest.raises(SystemExit, match="1"):
        run(*base, f"output_dir={tmp_path / 'b'}", "max_errors=2")
    assert stats(tmp_path / "b")["ok"] == 7


def test_reasons_that_are_not_printed_are_counted(run, tmp_path):
    (tmp_path / "photos").mkdir()
    for side in range(1, 14):
        PILImage.new("RGB", (side, side)).save(tmp_path / "photos" / f"{side}.png")
    base = ["dataset=image_folder", f"dataset.directory={tmp_path / 'photos'}", f"output_dir={tmp_path / 'a'}"]
    printed = run(*base, "filter=[image_size]")
    assert "  3 × 3 other reasons: entrypoints/shards.py stats lists them\n" in printed


@pytest.mark.parametrize(
    ("errors", "images", "allowed", "fails"),
    [
        (0, 0, 0.5, False),
        (5, 10, 0.5, False),
        (6, 10, 0.5, True),
        (1, 10, 0, True),
        (3, 10, 3, False),
        (4, 10, 3, True),
    ],
)
def test_max_errors_is_a_share_below_one_and_a_number_from_one_on(errors, images, allowed, fails):
    assert too_many(errors, images, allowed) is fails


def test_shards_with_failures_are_redone_when_asked_for(run, photos, tmp_path):
    good = (photos / "3.png").read_bytes()
    (photos / "3.png").write_bytes(b"not yet downloaded")
    base = [
        "dataset=image_folder",
        f"dataset.directory={photos}",
        f"output_dir={tmp_path / 'out'}",
        "samples_per_shard=2",
    ]
    run(*base)
    (photos / "3.png").write_bytes(good)
    run(*base)
    assert stats(tmp_path / "out")["error"] == 1
    untouched = (tmp_path / "out" / "00000.tar").stat().st_mtime_ns
    run(*base, "retry_errors=true")
    assert stats(tmp_path / "out")["error"] == 0 and (tmp_path / "out" / "00000.tar").stat().st_mtime_ns == untouched


def test_a_dry_run_prints_an_estimate_and_writes_nothing(config, capsys, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    cfg = config(
        "annotate", "experiment=embedded", f"dataset.directory={photos}", f"output_dir={tmp_path / 'out'}", "dry_run=4"
    )
    Annotating(cfg).estimate(cfg.dry_run)
    out = capsys.readouterr().out
    assert "measured on 4 images" in out and "all 7 images" in out and "GB" in out
    assert all(stage in out for stage in ("tagger", "detector", "segmenter", "captioner"))
    assert not (tmp_path / "out").exists()


def test_weights_that_a_dataset_lacks_are_named_before_anything_is_done(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rooms = ("dataset/gen4gen/cutter=isnet", f"dataset.cutter.segmenter.checkpoint={tmp_path / 'isnet.pth'}")
    with pytest.raises(MissingWeights, match=r"isnet\.pth"):
        run("dataset=gen4gen", "dataset.directory=concepts", f"output_dir={tmp_path / 'out'}", *rooms)
    assert not (tmp_path / "out").exists()


def test_composed_scenes_are_shards_like_any_other(run, tmp_path):
    for name, colour in (("cup", (200, 20, 20)), ("ball", (20, 20, 200))):
        folder = tmp_path / "concepts" / "a table" / name
        folder.mkdir(parents=True)
        picture = PILImage.new("RGB", (90, 72), (200, 200, 200))
        picture.paste(colour, (24, 18, 66, 54))
        picture.save(folder / "one.png")
    stages = ("~annotator/tagger", "~annotator/detector", "~annotator/segmenter")
    size = ("dataset.height=64", "dataset.width=96", "dataset.length=3")
    said = run(
        "dataset=gen4gen",
        f"dataset.directory={tmp_path / 'concepts'}",
        f"output_dir={tmp_path / 'out'}",
        *stages,
        *size,
    )
    assert "3 images: 3 ok, 0 empty, 0 failed" in said
    samples = list(Shards(tmp_path / "out"))
    assert all(x.layout.masks and x.layout.captions and "backdrop" in x.caption for x in samples)
    assert all(len(x.metadata["gen4gen"]["concepts"]) == len(x.layout) == 2 for x in samples)


def test_a_run_over_retrieved_images_ends_with_what_became_of_them(run, tmp_path):
    for folder, count in (("own", 3), ("web", 4)):
        for word, colour in (("red", (210, 30, 30)), ("blue", (30, 30, 210))):
            for i in range(count):
                path = tmp_path / folder / word / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                PILImage.new("RGB", (40, 40 + i), colour).save(path)
                path.with_suffix(".txt").write_text(f"a {word} wall")
    (tmp_path / "web" / "red" / "broken.png").write_bytes(b"no image")
    said = run(
        *("dataset=extrapolated", f"dataset.originals.directory={tmp_path / 'own'}", "dataset.clusters=null"),
        *(f"dataset.retrieval.dataset.directory={tmp_path / 'web'}", f"dataset.work={tmp_path / 'work'}"),
        *("dataset/extrapolated/encoder=histogram", "dataset.agreement=null", f"output_dir={tmp_path / 'out'}"),
        "layout_model/text_encoder@dataset.text_encoder=hashed_words",
    )
    assert f"9 retrieved images: 1 unreadable, 6 copy, 2 kept · {tmp_path / 'work'}/ledger.jsonl\n" in said


def test_missing_weights_end_in_one_paragraph_that_says_what_to_do(command, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = (f"dataset.directory={photos}", f"output_dir={tmp_path / 'out'}")
    done = command("annotate", "annotator/detector=groundingdino", *source)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    for word in ("IDEA-Research/grounding-dino", "model.safetensors", "hf download", "cache", "experiment=embedded"):
        assert word in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_a_source_without_images_ends_in_one_line(command, what, tmp_path):
    (tmp_path / "empty").mkdir()
    source = ("dataset=image_folder", f"dataset.directory={tmp_path / what}")
    done = command("annotate", "experiment=embedded", *source, f"output_dir={tmp_path / 'out'}")
    assert done.returncode == 2 and done.stderr.startswith("error: no ") and what in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_help_lists_every_group_and_option_third_party_ones_too():
    done = started("--help", path=PLUGIN)
    assert done.returncode == 0
    for line in ("annotator/detector: brightest, ", "output_dir", "dry_run", "experiment=embedded"):
        assert line in done.stdout
    for group in ("dataset", "annotator/detector", "filter", "experiment"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert path.stem in done.stdout


def test_help_does_not_wait_for_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "entrypoints/annotate.py", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported and not imported & {"torch", "numpy", "cv2", "accelerate"}


def test_a_wrong_option_lists_the_right_ones():
    done = started("annotator/detector=brihgtest", "output_dir=x", path=PLUGIN)
    assert done.returncode == 1 and "brightest" in done.stderr and "superpixels" in done.stderr


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("--help", "--help"),
        ("dataset=shapes", "dataset=shapes"),
        ("dataset.shards=cc3m/{00000..00331}.tar", "dataset.shards='cc3m/{00000..00331}.tar'"),
        ("dataset.shards={a,b}/0.tar", "dataset.shards='{a,b}/0.tar'"),
        ("dataset.shards='x/{0..1}.tar'", "dataset.shards='x/{0..1}.tar'"),
        ("dataset.weights={a: 1, b: 2}", "dataset.weights={a: 1, b: 2}"),
        ("metric=[{a: 1}]", "metric=[{a: 1}]"),
        ("x=${y}/z", "x=${y}/z"),
    ],
)
def test_braces_of_a_path_reach_the_dataset_as_typed(argument, quoted):
    assert quoted_patterns([argument]) == [quoted]


def test_a_brace_pattern_on_the_command_line_composes(command):
    done = command(
        "annotate", "dataset=img2dataset", "dataset.shards=cc3m/{00000..00331}.tar", "output_dir=x", "--cfg", "job"
    )
    assert "shards: cc3m/{00000..00331}.tar" in done.stdout, done.stderr


@pytest.mark.parametrize("door", ["tried", "named", "shipped"])
def test_a_plugin_from_outside_comes_in_by_three_doors(door, tmp_path):
    bare = tmp_path / "path"
    bare.mkdir()
    (bare / "acme_layout").symlink_to(PLUGIN / "acme_layout")
    door_arguments = {
        "tried": ["--config-dir", str(PLUGIN / "acme_layout" / "conf")],
        "named": ["hydra.searchpath=[pkg://acme_layout.conf]"],
        "shipped": [],
    }[door]
    chosen = ["annotator/detector=brightest", "output_dir=x", "dataset.directory=y", "--cfg", "job"]
    done = started(*door_arguments, *chosen, path=PLUGIN if door == "shipped" else bare)
    assert "_target_: acme_layout.brightest.BrightestPixel" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_plugin_from_outside_annotates(photos, tmp_path):
    chosen = ["annotator/detector=brightest", f"dataset.directory={photos}", f"output_dir={tmp_path / 'out'}"]
    done = started(*chosen, path=PLUGIN)
    assert done.returncode == 0, done.stderr
    assert all(s.layout.labels == ["bright"] for s in Shards(tmp_path / "out"))
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["plugins"]["detector"] == {"class": "acme_layout.brightest.BrightestPixel", "settings": {"radius": 0.2}}


@pytest.fixture
def drawn(tmp_path) -> list[str]:
    """Arguments for drawn scenes in several shards."""
    return [
        "experiment=embedded",
        "dataset=shapes",
        "dataset.length=14",
        "dataset.height=64",
        "dataset.width=64",
        "samples_per_shard=3",
        "batch_size=2",
    ]


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(run, drawn, tmp_path):
    run(*drawn, f"output_dir={tmp_path / 'one'}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    arguments = ["entrypoints/annotate.py", *drawn, f"output_dir={tmp_path / 'two'}"]
    done = subprocess.run([*launch, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("14 images: 14 ok") == 1, "each process thinks that it is alone"
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.slow
def test_a_killed_command_is_continued_by_the_same_command(run, drawn, tmp_path):
    run(*drawn, f"output_dir={tmp_path / 'whole'}")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "entrypoints/annotate.py", *drawn, f"output_dir={tmp_path / 'killed'}"]
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list((tmp_path / "killed").glob("00001.json")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and (tmp_path / "killed" / "00001.json").exists()
    assert not (tmp_path / "killed" / "00004.json").exists(), "it was not killed in the middle"
    run(*drawn, f"output_dir={tmp_path / 'killed'}")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.mark.slow
def test_array_jobs_share_the_shards(run, drawn, tmp_path):
    run(*drawn, f"output_dir={tmp_path / 'one'}")
    jobs = ["-m", "hydra/launcher=submitit_local", "num_jobs=2", "job_index=0,1", f"output_dir={tmp_path / 'jobs'}"]
    done = started(*jobs, *drawn)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "jobs") == files(tmp_path / "one")
