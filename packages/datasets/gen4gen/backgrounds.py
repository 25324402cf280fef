"""Words for repainting: the phrase of each folder of background photos, and what no picture is to show.

Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504.
"""

#: What the repainting network is to keep away from; one line.
NEGATIVE_PROMPT = (
    "semi-realistic, cgi, 3d, render, sketch, cartoon, drawing, anime, text, close up, cropped, out of frame, "
    "worst quality, low quality, jpeg artifacts, ugly, duplicate, morbid, mutilated, extra fingers, "
    "mutated hands, poorly drawn hands, poorly drawn face, mutation, deformed, blurry, dehydrated, "
    "bad anatomy, bad proportions, extra limbs, cloned face, disfigured, gross proportions, malformed limbs, "
    "missing arms, missing legs, extra arms, extra legs, fused fingers, too many fingers, long neck, mixture"
)

#: By the name of a folder of background photos, how a prompt says where that is: "a photo of a cat in a garden".
PHRASES = {
    "garden": "in a garden",
    "garden_lake": "in a garden with the lake",
    "room": "in a room",
    "farm": "on the farm",
    "grass": "on the grass",
    "galaxy": "in the galaxy",
    "office": "in the office",
    "forest": "in the forest",
    "beach": "on the beach",
    "museum": "in the museum",
    "nationalpark": "in the national park",
    "sand": "on the sand",
    "sky": "in the sky",
    "park": "at the park",
    "airport": "at the airport",
    "mountain": "over the mountain",
    "sea": "on the sea",
    "harbor": "in the harbor",
    "field": "in the field",
    "countryside": "in the countryside",
    "bedroom": "in the bedroom",
    "living-room": "in the living room",
    "playroom": "in the playroom",
    "kitchen": "in the kitchen",
    "savannah": "on the savannah",
    "zoo": "at the zoo",
    "safari": "in the safari",
    "circus": "at the circus",
    "pasture": "at the pasture",
    "meadow": "on the meadow",
    "ocean": "in the ocean",
    "coral-reef": "on the coral reef",
    "aquarium": "in the aquarium",
    "underwater-cave": "in the underwater cave",
    "medieval-village": "in the medieval village",
    "sidewalk": "on the sidewalk",
    "playground": "at the playground",
    "clothing-store": "in the clothing store",
    "closet": "in the closet",
    "laboratory": "in the laboratory",
    "jungle": "in the jungle",
    "city": "in the city",
    "desert": "in the desert",
    "oasis": "in the oasis",
    "pond": "in the pond",
    "gym": "in the gym",
    "grasslands": "on the grasslands",
    "gallery": "in the gallery",
    "cafe": "in the cafe",
}
