"""The reference's strings are those of the reference."""

from hashlib import sha256

from scenewright.datasets.gen4gen.backgrounds import NEGATIVE_PROMPT, PHRASES


def test_the_negative_prompt_is_the_references_in_its_order():
    digest = "4e52af7ed660cdd8be8285582d32db462b633425395d42c7ea35f23844222438"
    assert len(NEGATIVE_PROMPT) == 501 and sha256(NEGATIVE_PROMPT.encode()).hexdigest() == digest


def test_each_known_scene_has_a_phrase_that_begins_with_a_preposition():
    assert len(PHRASES) == 49 and PHRASES["living-room"] == "in the living room"
    assert {x.split()[0] for x in PHRASES.values()} == {"in", "on", "at", "over"}
