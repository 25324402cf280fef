"""How large things are."""

import re

from scenewright.datasets.gen4gen.planner.phrase import normalised

#: Metres, for what is not in the table.
MEDIUM = 0.6

# typical longest sides in metres; rough on purpose, since they are softened
_METRES = {
    # COCO's classes
    **{"person": 1.7, "bicycle": 1.8, "car": 4.5, "motorcycle": 2.2, "airplane": 35.0, "bus": 12.0, "train": 25.0},
    **{"truck": 8.0, "boat": 6.0, "traffic light": 1.0, "fire hydrant": 0.8, "stop sign": 2.2, "parking meter": 1.4},
    **{"bench": 1.6, "bird": 0.25, "cat": 0.5, "dog": 0.8, "horse": 2.4, "sheep": 1.2, "cow": 2.4, "elephant": 5.5},
    **{"bear": 2.0, "zebra": 2.3, "giraffe": 5.0, "backpack": 0.5, "umbrella": 1.0, "handbag": 0.35, "tie": 1.4},
    **{"suitcase": 0.7, "frisbee": 0.27, "skis": 1.7, "snowboard": 1.5, "sports ball": 0.22, "kite": 1.2},
    **{"baseball bat": 0.85, "baseball glove": 0.3, "skateboard": 0.8, "surfboard": 2.2, "tennis racket": 0.7},
    **{"bottle": 0.3, "wine glass": 0.2, "cup": 0.12, "fork": 0.19, "knife": 0.22, "spoon": 0.18, "bowl": 0.2},
    **{"banana": 0.19, "apple": 0.08, "sandwich": 0.15, "orange": 0.08, "broccoli": 0.18, "carrot": 0.18},
    **{"hot dog": 0.17, "pizza": 0.32, "donut": 0.1, "cake": 0.25, "chair": 0.95, "couch": 2.0, "potted plant": 0.6},
    **{"bed": 2.0, "dining table": 1.6, "toilet": 0.75, "tv": 1.1, "laptop": 0.34, "mouse": 0.11, "remote": 0.18},
    **{"keyboard": 0.44, "cell phone": 0.15, "microwave": 0.5, "oven": 0.85, "toaster": 0.3, "sink": 0.6},
    **{"refrigerator": 1.8, "book": 0.24, "clock": 0.3, "vase": 0.35, "scissors": 0.18, "teddy bear": 0.35},
    **{"hair drier": 0.25, "toothbrush": 0.19},
    # other animals
    **{"puppy": 0.4, "kitten": 0.25, "corgi": 0.65, "poodle": 0.6, "chihuahua": 0.3, "rabbit": 0.35, "bunny": 0.35},
    **{"hamster": 0.12, "guinea pig": 0.25, "parrot": 0.35, "duck": 0.5, "goose": 0.8, "chicken": 0.4, "owl": 0.4},
    **{"penguin": 0.8, "pig": 1.4, "goat": 1.2, "deer": 1.8, "fox": 0.8, "wolf": 1.4, "lion": 2.2, "tiger": 2.5},
    **{"leopard": 1.6, "panda": 1.6, "monkey": 0.7, "gorilla": 1.7, "kangaroo": 1.6, "koala": 0.7, "squirrel": 0.25},
    **{"hedgehog": 0.22, "tortoise": 0.4, "turtle": 0.4, "frog": 0.1, "fish": 0.3, "goldfish": 0.12, "shark": 3.5},
    **{"dolphin": 2.5, "whale": 14.0, "otter": 1.0, "sloth": 0.6, "alpaca": 1.6, "camel": 3.0, "rhino": 3.6},
    # plants, furniture, vehicles, buildings, toys, what one wears
    **{"houseplant": 0.6, "plant": 0.6, "cactus": 0.3, "bonsai": 0.4, "flower": 0.3, "tree": 6.0, "palm tree": 7.0},
    **{"sunflower": 1.5, "table": 1.4, "desk": 1.4, "sofa": 2.0, "armchair": 1.0, "stool": 0.6, "lamp": 1.0},
    **{"cabinet": 1.2, "bookshelf": 1.8, "wardrobe": 2.0, "fridge": 1.8, "piano": 1.5, "guitar": 1.0, "violin": 0.6},
    **{"bike": 1.8, "motorbike": 2.2, "scooter": 1.7, "van": 5.0, "tractor": 4.0, "plane": 35.0, "helicopter": 12.0},
    **{"tank": 7.0, "ship": 60.0, "house": 10.0, "castle": 30.0, "lighthouse": 25.0, "barn": 15.0, "tent": 2.5},
    **{"toy": 0.3, "doll": 0.35, "robot toy": 0.25, "duck toy": 0.12, "rubber duck": 0.1, "action figure": 0.2},
    **{"monster toy": 0.2, "plushie": 0.3, "stuffed animal": 0.35, "ball": 0.22, "balloon": 0.35, "robot": 1.2},
    **{"camera": 0.15, "phone": 0.15, "can": 0.12, "mug": 0.11, "teapot": 0.25, "candle": 0.15, "basket": 0.4},
    **{"bag": 0.4, "hat": 0.3, "shoe": 0.28, "sneaker": 0.28, "boot": 0.32, "glasses": 0.15, "sunglasses": 0.15},
    **{"dress": 1.1, "jacket": 0.8, "watch": 0.22, "man": 1.75, "woman": 1.65, "boy": 1.3, "girl": 1.3, "child": 1.1},
    **{"baby": 0.65, "statue": 1.8, "barrel": 0.9, "box": 0.4, "door": 2.0, "bridge": 40.0, "rock": 0.6},
}  # fmt: skip

_TABLE = {normalised(name): size for name, size in _METRES.items()}


def metres(name: str) -> float:
    """The typical longest side of a thing; that of its last words known ("golden retriever dog"), else ``MEDIUM``."""
    words = re.findall(r"[^\W\d_]+", name)
    for start in range(len(words)):
        size = _TABLE.get(normalised(" ".join(words[start:])))
        if size is not None:
            return size
    return next((_TABLE[x] for x in map(normalised, words) if x in _TABLE), MEDIUM)
