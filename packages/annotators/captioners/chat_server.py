"""ChatServer: describes regions with the vision-language model of any server that speaks OpenAI's chat protocol.

vLLM, SGLang, llama.cpp, Ollama and hosted services do. Pictures go to that server and nowhere else.

Source: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html. Weights and their licence are the
server's; the default names Qwen/Qwen3-VL-2B-Instruct, Apache-2.0.
"""

import asyncio
import base64
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from PIL import Image as PILImage

from scenewright.annotators.captions import describe
from scenewright.annotators.structured import Question, describe_together, schema
from scenewright.chat import Endpoint, check_address, run
from scenewright.checkpoints import CheckpointError
from scenewright.layout import Image, Layout

#: Failed images' neighbours that are remembered until they are asked for again.
_REMEMBERED = 4096


@dataclass(frozen=True)
class _Request:
    picture: Image
    prompt: str
    max_tokens: int
    regions: int = 0  # of a structured call


class ChatServer:
    """Captions regions through a chat server: many requests at a time, each retried, greedy by default.

    An image of which a region fails after all retries raises. What was answered for the others in the call is
    remembered until it is asked for again, so that a pipeline that halves its batch to find the failing image pays
    nothing twice.

    Args:
        base_url: up to and including ``/v1``; no user name or password in it.
        model: as the server calls it.
        api_key_variable: the environment variable that holds the key, so that no key is ever in a configuration or
            a record; where it is not set, the key is "EMPTY", which local servers take.
        calls: "region": one call per crop. "image": one call per image, in which all its regions are numbered; what
            it leaves out is asked for once more, and then by a call per crop. The whole image, and a region alone in
            its image, always take a call per crop.
        prompt: for a crop, ``{label}`` stands for its label; or a name in ``captions.PROMPTS``.
        image_prompt: for a layout that is the whole image.
        padding, blur, min_area, small, legacy, clean: of the crops and their captions, see ``captions.describe``; what
            a structured call says is always cleaned.
        max_new_tokens: for one caption.
        max_side: pictures are scaled down to this longer side, in pixels.
        image_format: "jpeg" or "png", of the pictures that are sent.
        regions_per_call: with ``calls="image"``, longer layouts take several calls.
        draw_boxes: with ``calls="image"``, draw the numbered boxes into the picture.
        coordinates: of boxes in a structured call: "thousandths" (Qwen2-VL, Qwen3-VL and most others) or "pixels" of
            the picture that is sent (Qwen2.5-VL, if the server does not scale it).
        json_schema: with ``calls="image"``, have the server hold the reply to its schema.
        concurrency: requests under way at once.
        timeout: of one try, in seconds.
        max_retries: after timeouts, broken connections and the statuses 408, 409, 429 and 5xx, after waits that
            double from half a second, or as long as the server says.
        temperature: 0 is greedy. Each request carries its image's seed.
        extra: more fields of the request: ``{chat_template_kwargs: {enable_thinking: false}}``.
    """

    def __init__(
        self,
        base_url: str = "http://localhost:8000/v1",
        model: str = "Qwen/Qwen3-VL-2B-Instruct",
        *,
        api_key_variable: str = "CHAT_SERVER_API_KEY",
        calls: str = "region",
        prompt: str = "region",
        image_prompt: str = "image",
        padding: float = 0.0,
        blur: float = 0.0,
        min_area: int = 1024,
        small: str = "label",
        legacy: bool = False,
        clean: bool = True,
        max_new_tokens: int = 64,
        max_side: int = 1024,
        image_format: str = "jpeg",
        regions_per_call: int = 16,
        draw_boxes: bool = False,
        coordinates: str = "thousandths",
        json_schema: bool = False,
        concurrency: int = 32,
        timeout: float = 120.0,
        max_retries: int = 5,
        temperature: float = 0.0,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        check_address(base_url)
        self.base_url, self.model, self.api_key_variable = base_url, model, api_key_variable
        self.calls, self.prompt, self.image_prompt = calls, prompt, image_prompt
        self.padding, self.blur, self.min_area, self.small = padding, blur, min_area, small
        self.legacy, self.clean, self.max_new_tokens = legacy, clean, max_new_tokens
        self.max_side, self.image_format = max_side, image_format
        self.regions_per_call, self.draw_boxes, self.coordinates = regions_per_call, draw_boxes, coordinates
        self.json_schema, self.concurrency = json_schema, concurrency
        self.timeout, self.max_retries = timeout, max_retries
        self.temperature, self.extra = temperature, extra

    def caption(
        self, images: Sequence[Image], layouts: Sequence[Layout], *, seeds: Sequence[int] | None = None
    ) -> list[list[str]]:
        """One caption per region, in the layout's order; none for no regions. Also where an event loop runs.

        Args:
            seeds: one per image, sent with its requests.

        Raises:
            ConnectionError: the server cannot be reached.
            TimeoutError: it does not answer in time.
            RuntimeError: it answers with an error, or with something that is no answer.
            CheckpointError: it refuses the key, or does not know the model: it would for every image.
            ValueError: a setting is unknown.
        """
        self._check()
        chosen = seeds if seeds is not None else [None] * len(images)
        jobs = list(zip(images, layouts, chosen, strict=True))
        known = [self._failed_beside.pop(_fingerprint(*job), None) if self._failed_beside else None for job in jobs]
        new = iter(run(self._caption_all([job for job, found in zip(jobs, known, strict=True) if found is None])))
        outcomes = [next(new) if found is None else found for found in known]
        failures = [x for x in outcomes if isinstance(x, BaseException)]
        if not failures:
            return [x for x in outcomes if not isinstance(x, BaseException)]
        if len(jobs) > 1:
            self._remember(dict(zip((_fingerprint(*job) for job in jobs), outcomes, strict=True)))
        raise next((x for x in failures if isinstance(x, CheckpointError)), failures[0])

    def _check(self) -> None:
        allowed = {
            "calls": ("region", "image"),
            "image_format": ("jpeg", "png"),
            "coordinates": ("thousandths", "pixels"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency}")

    @cached_property
    def _failed_beside(self) -> dict[str, list[str] | BaseException]:
        """Outcomes of images that were asked about together with one that failed."""
        return {}

    def _remember(self, outcomes: Mapping[str, list[str] | BaseException]) -> None:
        self._failed_beside.update(outcomes)
        for key in list(self._failed_beside)[:-_REMEMBERED]:
            del self._failed_beside[key]

    async def _caption_all(
        self, jobs: Sequence[tuple[Image, Layout, int | None]]
    ) -> Sequence[list[str] | BaseException]:
        """An outcome per image. Each image is a conversation of its own in a thread; all share the connections."""
        if not jobs:
            return []
        loop, limit = asyncio.get_running_loop(), asyncio.Semaphore(self.concurrency)
        pool = ThreadPoolExecutor(min(len(jobs), self.concurrency))
        async with self._endpoint.connect() as client:

            def caption(image: Image, layout: Layout, seed: int | None) -> list[str]:
                def send(requests: list[_Request]) -> list[str]:
                    answers = self._answers(client, limit, requests, seed)
                    return asyncio.run_coroutine_threadsafe(answers, loop).result()

                return self._caption(image, layout, send)

            try:
                tasks = [loop.run_in_executor(pool, caption, *job) for job in jobs]
                return await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # to wait here would stop the loop that threads wait for

    def _caption(self, image: Image, layout: Layout, send: Callable[[list[_Request]], list[str]]) -> list[str]:
        """The captions of one image."""

        def ask(crops: list[Image], prompts: list[str]) -> list[str]:
            return send([_Request(x, text, self.max_new_tokens) for x, text in zip(crops, prompts, strict=True)])

        def ask_together(questions: list[Question]) -> list[str]:
            # a sentence, and the quotes, comma and number around it
            limits = [16 + (self.max_new_tokens + 8) * x.regions for x in questions]
            return send([_Request(x.picture, x.prompt, n, x.regions) for x, n in zip(questions, limits, strict=True)])

        alone = partial(
            describe,
            ask=ask,
            prompt=self.prompt,
            image_prompt=self.image_prompt,
            padding=self.padding,
            blur=self.blur,
            min_area=self.min_area,
            small=self.small,
            legacy=self.legacy,
            clean=self.clean,
            batch_size=max(len(layout), 1),  # how many are sent at once is bounded elsewhere
        )
        if self.calls == "region":
            return alone([image], [layout])[0]
        return describe_together(
            [image],
            [layout],
            ask_together,
            alone,
            regions_per_call=self.regions_per_call,
            frame=lambda x: self._sent_size(x) if self.coordinates == "pixels" else None,
            draw_boxes=self.draw_boxes,
            min_area=self.min_area,
        )[0]

    async def _answers(
        self, client: Any, limit: asyncio.Semaphore, requests: Sequence[_Request], seed: int | None
    ) -> list[str]:
        async def answer(request: _Request) -> str:
            async with limit:
                return await self._answer(client, request, seed)

        # all are awaited before the first failure is raised: none goes on behind the caller's back
        answers = await asyncio.gather(*map(answer, requests), return_exceptions=True)
        for failure in answers:
            if isinstance(failure, BaseException):
                raise failure
        return [x for x in answers if isinstance(x, str)]

    async def _answer(self, client: Any, request: _Request, seed: int | None) -> str:
        """One reply; the client retries by itself."""
        picture = {"type": "image_url", "image_url": {"url": await asyncio.to_thread(self._data_url, request.picture)}}
        return await self._endpoint.reply(
            client,
            [{"role": "user", "content": [picture, {"type": "text", "text": request.prompt}]}],
            max_tokens=request.max_tokens,
            temperature=self.temperature,
            seed=seed,
            schema=("regions", schema(request.regions)) if request.regions and self.json_schema else None,
            extra=self.extra,
        )

    @property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self.base_url, self.model, self.api_key_variable, self.timeout, self.max_retries)

    def _sent_size(self, image: Image) -> tuple[int, int]:
        """Height and width of a picture as it is sent."""
        height, width = image.shape[1:]
        scale = min(1.0, self.max_side / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _data_url(self, image: Image) -> str:
        height, width = self._sent_size(image)
        picture = PILImage.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
        if picture.size != (width, height):
            picture = picture.resize((width, height), PILImage.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, self.image_format, **({"quality": 92} if self.image_format == "jpeg" else {}))
        return f"data:image/{self.image_format};base64,{base64.b64encode(file.getvalue()).decode()}"


def _fingerprint(image: Image, layout: Layout, seed: int | None) -> str:
    digest = hashlib.sha256(image.contiguous().cpu().numpy().tobytes())
    digest.update(repr((tuple(image.shape), layout.boxes.tolist(), layout.labels, seed)).encode())
    return digest.hexdigest()
