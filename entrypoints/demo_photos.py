"""Collect the photographs that scikit-image and scikit-learn bring along into a folder."""

import shutil
import sys
from pathlib import Path

#: With captions where a person wrote one here; the others get theirs from the captioner.
PHOTOS = {
    "astronaut": "an astronaut in an orange suit in front of a flag and a model of a space shuttle",
    "camera": "",
    "cat": "",
    "coffee": "a cup of coffee with a spoon on a wooden table",
    "coins": "",
    "hubble_deep_field": "",
    "retina": "",
    "rocket": "a rocket on its launch pad at night",
}


def main() -> None:
    import sklearn.datasets
    from PIL import Image
    from skimage import data

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, caption in PHOTOS.items():
        Image.fromarray(getattr(data, name)()).convert("RGB").save(folder / f"{name}.jpg", quality=92)
        if caption:
            (folder / f"{name}.txt").write_text(caption)
    for path in Path(sklearn.datasets.__file__).parent.glob("images/*.jpg"):
        shutil.copy(path, folder)
    print(f"{len(list(folder.glob('*.jpg')))} photographs in {folder}")


if __name__ == "__main__":
    main()
