"""The image files of an export."""

import pytest
import torch

from scenewright.datasets.formats.pictures import Pictures, picture_file, size_of
from scenewright.layout import EncodedImage, Layout, Sample, decode

TURNED = bytes.fromhex("45786966000049492a00080000000100120103000100000006000000000000000000")


def bare(found: Sample) -> Sample:
    from dataclasses import replace

    return replace(found, layout=Layout.empty())


def test_files_are_copied_byte_by_byte(sample, tmp_path):
    for kind, name in (("JPEG", "a.jpg"), ("PNG", "a.png"), ("WEBP", "a.webp")):
        one = sample("a", kind=kind)
        assert Pictures(tmp_path / kind).place(one) == name
        assert (tmp_path / kind / name).read_bytes() == one.source.data


def test_a_file_that_is_turned_is_written_as_the_picture_it_shows(sample, tmp_path):
    turned = bare(sample("a", save={"exif": TURNED}))
    assert size_of(turned) == tuple(turned.image.shape[1:]) == (56, 40)
    pictures = Pictures(tmp_path)
    assert pictures.place(turned) == "a.png" and pictures.redrawn == 1
    assert torch.equal(decode((tmp_path / "a.png").read_bytes()), turned.image)
    assert picture_file(turned)[1] and not picture_file(sample("b"))[1]
    with pytest.raises(ValueError, match="'a' is turned.*images=copy"):
        Pictures(tmp_path, "path", str(tmp_path)).place(turned)


def test_a_border_is_cut_off(tmp_path):
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    padded = torch.full((3, 30, 30), 255, dtype=torch.uint8)
    padded[:, 5:25] = image
    source = EncodedImage(EncodedImage.from_image(padded).data, "png", "x.png", (0, 5, 0, 5))
    one = Sample("a", source)
    assert size_of(one) == (20, 30)
    Pictures(tmp_path).place(one)
    assert torch.equal(decode((tmp_path / "a.png").read_bytes()), image)


def test_links_and_paths_start_from_a_folder(sample, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    assert Pictures(tmp_path / "out", "link", str(tmp_path)).place(sample("a")) == "a.jpg"
    assert (tmp_path / "out" / "a.jpg").is_symlink() and (tmp_path / "out" / "a.jpg").read_bytes() == b"x"
    assert Pictures(tmp_path, "path", "s3://there").place(sample("a")) == "s3://there/photos/a.jpg"
    with pytest.raises(OSError):
        Pictures(tmp_path / "out", "link", str(tmp_path)).place(sample("lost"))


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg", "file:///etc/passwd"])
def test_a_name_that_leads_elsewhere_is_refused(name, sample, tmp_path):
    from dataclasses import replace

    one = sample("a")
    with pytest.raises(ValueError, match="below image_root"):
        Pictures(tmp_path, "path", "/data").place(replace(one, source=EncodedImage(one.source.data, "jpg", name)))


def test_without_images_it_says_how_to_name_them(tmp_path):
    with pytest.raises(ValueError, match=r"\+dataset@images=image_folder"):
        Pictures(tmp_path).place(Sample("a"))
    assert Pictures(tmp_path, "none").place(Sample("a")) == "a.jpg"


@pytest.mark.parametrize(("mode", "root"), [("move", None), ("link", None), ("path", None), ("link", "s3://x")])
def test_wrong_settings_are_refused(mode, root, tmp_path):
    with pytest.raises(ValueError):
        Pictures(tmp_path, mode, root)
