"""What is asked of a language model for one canvas, and what becomes of its answers. Who is asked is left to others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from scenewright.chat import ChatError
from scenewright.datasets.gen4gen.planner import prompts
from scenewright.datasets.gen4gen.planner.exemplars import coco_exemplars
from scenewright.datasets.gen4gen.planner.parsing import parse_backgrounds, parse_boxes, parse_ratios
from scenewright.datasets.gen4gen.planner.phrase import object_phrase
from scenewright.datasets.gen4gen.planner.validation import Limits, check
from scenewright.datasets.gen4gen.records import LayoutPlan, LayoutRequest

_SHOWN = 4000  # characters of a refused answer that the model is shown again

Value = TypeVar("Value")


class Refused(ValueError):
    """No answer could be used."""


@dataclass(frozen=True)
class Question:
    """One call of a model. Equal questions have equal answers, so that each needs to be asked only once.

    Attributes:
        messages: role and text of each.
        temperature: of sampling; 0 is greedy.
        seed: of sampling.
        schema: its name, and the JSON schema that the answer has; or None.
    """

    messages: tuple[tuple[str, str], ...]
    temperature: float
    seed: int
    schema: tuple[str, Mapping[str, Any]] | None = None

    @property
    def key(self) -> str:
        """A digest of all of it."""
        return hashlib.sha256(
            json.dumps([self.messages, self.temperature, self.seed, self.schema]).encode()
        ).hexdigest()


#: A conversation: yields questions, is sent their answers, and returns the plan.
Planning = Generator[Question, str, LayoutPlan]

_Asking = Generator[Question, str, Value]


@dataclass(frozen=True)
class Conversation:
    """How a canvas is planned by questions and answers.

    Attributes:
        model: its name, for the log.
        attempts: how often a question is asked: after an answer that cannot be used it is asked again, with the reason.
        temperature: the range from which each canvas draws that of its layout.
        obj_ratio: ask for real sizes.
        verify_backgrounds: ask of each suggested background whether the things could be there.
        json_schema: name the schema of an answer, for those who can hold a model to it.
        limits: of the boxes.
        exemplars: of the layout prompt, written out; its own if empty.
    """

    model: str
    attempts: int = 3
    temperature: tuple[float, ...] = (0.0, 1.0)
    obj_ratio: bool = False
    verify_backgrounds: bool = False
    json_schema: bool = False
    limits: Limits = Limits()
    exemplars: str = ""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")
        if len(self.temperature) != 2 or not 0 <= self.temperature[0] <= self.temperature[1]:
            raise ValueError(f"temperature must be a range, such as [0, 1], got {list(self.temperature)}")

    @classmethod
    def of(cls, planner: Any, model: str) -> Conversation:
        """The conversation that a planner's attributes describe; COCO's files are read if it names them.

        Raises:
            OSError: they are not there.
            ValueError: they are of no use, or a setting makes no sense.
        """
        own = ("attempts", "obj_ratio", "verify_backgrounds")
        exemplars = ""
        if planner.coco is not None:
            exemplars = coco_exemplars(
                planner.coco,
                planner.coco_categories,
                planner.coco_images_per_category,
                planner.coco_exemplars,
                planner.coco_seed,
            )
        return cls(
            model,
            temperature=tuple(planner.temperature),
            limits=Limits(**{x.name: float(getattr(planner, x.name)) for x in fields(Limits)}),
            exemplars=exemplars,
            json_schema=getattr(planner, "json_schema", False),
            **{name: getattr(planner, name) for name in own},
        )

    def plan(self, request: LayoutRequest) -> Planning:
        """Plan one canvas: background, sizes, boxes.

        A ``ChatError`` that is thrown in where an answer is due makes a plan that failed.
        """
        log: list[dict[str, object]] = []
        background, ratios, boxes, error = "", (), None, ""
        rng = np.random.default_rng(request.seed)
        low, high = self.temperature
        choice, temperature = rng.random(), float(rng.uniform(low, high))
        phrase = object_phrase(request.names)
        try:
            phrases = request.backgrounds or (yield from self._backgrounds(phrase, log))
            background = phrases[int(choice * len(phrases))]
            if self.obj_ratio:
                ratios = yield from self._ratios(request.names, log)
            boxes = yield from self._boxes(request, f"{phrase} {background}", temperature, log)
        except (Refused, ChatError) as failure:
            error = str(failure)
        return LayoutPlan(boxes, background, ratios, log, error)

    def _backgrounds(self, phrase: str, log: list[dict[str, object]]) -> _Asking[Sequence[str]]:
        """Phrases that the model suggests: the same for every canvas with these things."""
        prompt = prompts.backgrounds(phrase)
        schema = _object_of("backgrounds", _list_of({"type": "string"}))
        found = yield from self._ask("backgrounds", prompt, lambda x, _: parse_backgrounds(x), schema, log)
        if not self.verify_backgrounds:
            return found
        suitable = []
        for background in found:
            question = (
                f"Think of a real photo {background} that shows {phrase}. Is that a place where one would see all of "
                "this together? Answer with one word, yes or no."
            )
            schema = _object_of("answer", {"type": "string", "enum": ["yes", "no"]})
            if (yield from self._ask("verify background", question, _yes_or_no, schema, log, temperature=0.0)):
                suitable.append(background)
        if not suitable:
            raise Refused(f"none of the backgrounds that the model suggests ({', '.join(found)}) suits {phrase}")
        return suitable

    def _ratios(self, names: Sequence[str], log: list[dict[str, object]]) -> _Asking[tuple[float, ...]]:
        """One per name, relative to the largest."""
        unique = sorted(set(names))
        if len(unique) == 1:
            return (1.0,) * len(names)
        prompt = prompts.ratios(", ".join(unique))
        schema = _object_of("ratios", _list_of({"type": "number"}))
        found = yield from self._ask("ratios", prompt, lambda x, _: parse_ratios(x, len(unique)), schema, log)
        by_name = dict(zip(unique, found, strict=True))
        return tuple(by_name[name] for name in names)

    def _boxes(
        self, request: LayoutRequest, caption: str, temperature: float, log: list[dict[str, object]]
    ) -> _Asking[Float[Tensor, "n 4"]]:
        size = request.height, request.width

        def read(reply: str, last: bool) -> Float[Tensor, "n 4"]:
            # a model that does not take up the names when it is told to will not do so
            return check(parse_boxes(reply), request.names, size, self.limits, by_order=last)

        named = {"name": {"type": "string"}, "box": _list_of({"type": "integer"})}
        schema = _object_of("objects", _list_of(_object(named)))
        prompt = prompts.layout(caption, self.exemplars)
        return (yield from self._ask("layout", prompt, read, schema, log, temperature, request.seed))

    def _ask(
        self,
        call: str,
        prompt: str,
        read: Callable[[str, bool], Value],
        schema: tuple[str, Mapping[str, Any]],
        log: list[dict[str, object]],
        temperature: float = 1.0,
        seed: int = 0,
    ) -> _Asking[Value]:
        """What ``read`` makes of an answer; it is told whether this is the last one.

        Raises:
            Refused: it raised ValueError for each.
        """
        messages, reason = [("user", prompt)], ""
        for attempt in range(self.attempts):
            question = Question(
                tuple(messages), temperature, (seed + attempt) % 2**31, schema if self.json_schema else None
            )
            reply = yield question
            entry: dict[str, object] = {"call": call, "attempt": attempt + 1, "prompt": messages[-1][1], "reply": reply}
            log.append(entry | {"model": self.model, "temperature": temperature, "seed": question.seed, "refused": ""})
            try:
                return read(reply, attempt == self.attempts - 1)
            except ValueError as refusal:
                reason = log[-1]["refused"] = str(refusal)
            messages += [("assistant", reply[:_SHOWN].strip() or "(no answer)"), ("user", _again(reason))]
        raise Refused(f"none of {self.attempts} answers of {self.model} ({call}) can be used: {reason}")


def _again(reason: str) -> str:
    return (
        f"This answer cannot be used: {reason}. Please answer again, completely, in the format of the examples, "
        "with nothing around it."
    )


def _yes_or_no(reply: str, last: bool) -> bool:
    """Raises: ValueError, where it says neither, or both."""
    words = {x.strip(".,!:;*\"'{}") for x in reply.rsplit("</think>", 1)[-1].casefold().split()}
    if ("yes" in words) == ("no" in words):
        raise ValueError("the answer must be yes or no")
    return "yes" in words


def _list_of(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": dict(items)}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _object_of(name: str, kind: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A name, and the schema of an object with one field of that name."""
    return name, _object({name: kind})
