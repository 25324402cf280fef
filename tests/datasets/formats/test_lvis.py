"""LVIS."""

import json

from pycocotools import mask as coco_mask

from scenewright.datasets.formats.lvis import LVIS


def test_a_document_has_what_lvis_asks_for(samples, tmp_path):
    LVIS().write(samples, tmp_path)
    found = json.loads((tmp_path / "lvis.json").read_text())
    for category in found["categories"]:
        regions = [x for x in found["annotations"] if x["category_id"] == category["id"]]
        assert category["instance_count"] == len(regions)
        assert category["image_count"] == len({x["image_id"] for x in regions})
        assert category["frequency"] == "r" and {"synset", "synonyms", "def"} <= category.keys()
    assert [x["id"] for x in found["annotations"]] == list(range(1, 1 + sum(len(x.layout) for x in samples)))
    for image, sample in zip(found["images"], samples, strict=True):
        mine = [x for x in found["annotations"] if x["image_id"] == image["id"]]
        assert set(image["not_exhaustive_category_ids"]) == {x["category_id"] for x in mine}
        assert image["neg_category_ids"] == [] and (tmp_path / "images" / image["coco_url"]).exists()
        size = image["height"], image["width"]
        for region, mask in zip(mine, sample.layout.masks or [], strict=bool(sample.layout.masks)):
            drawn = region["segmentation"]
            drawn = coco_mask.merge(coco_mask.frPyObjects(drawn, *size)) if isinstance(drawn, list) else drawn
            assert (coco_mask.decode(drawn).astype(bool) == mask.decode().numpy()).all()


def test_frequent_categories_are_told_from_rare_ones(sample, tmp_path):
    kinds = {"rare": 10, "common": 11, "frequent": 101}
    from dataclasses import replace

    def labelled(label, i):
        found = sample(f"{label}{i}", ["full"], (4, 4))
        return replace(found, layout=replace(found.layout, labels=[label]))

    LVIS(images="none").write((labelled(x, i) for x, n in kinds.items() for i in range(n)), tmp_path)
    found = json.loads((tmp_path / "lvis.json").read_text())
    assert {x["name"]: x["frequency"] for x in found["categories"]} == {"rare": "r", "common": "c", "frequent": "f"}
