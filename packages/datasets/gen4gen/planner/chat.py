"""ChatPlanner: has layouts planned by the language model of any server that speaks OpenAI's chat protocol."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from scenewright.chat import ChatError, Endpoint, check_address, run
from scenewright.checkpoints import CheckpointError
from scenewright.datasets.gen4gen.planner.conversation import Conversation, Planning, Question
from scenewright.datasets.gen4gen.records import LayoutPlan, LayoutRequest

#: Answers that are kept, so that nothing is paid twice.
_REMEMBERED = 4096


class ChatPlanner:
    """Asks for a background, real sizes if wanted, and boxes; checks the boxes, and asks again with what is wrong.

    Many canvases are planned at once, and what is asked for one does not depend on the others: temperature, choice of
    the background and the seed that is sent come from its own seed. Backgrounds and sizes depend on the things alone
    and are asked once for all canvases that have them. Every prompt and answer is in the plan's log. A canvas whose
    answers are all refused, and one whose request the server refuses, has a plan that says so.

    Args:
        base_url: up to and including ``/v1``; no user name or password in it.
        model: as the server calls it.
        api_key_variable: the environment variable that holds the key, so that no key is ever in a configuration or a
            record; where it is not set, the key is "EMPTY", which local servers take.
        concurrency: requests under way at once.
        timeout: of one try, in seconds.
        max_retries: after timeouts, broken connections and the statuses 408, 409, 429 and 5xx, after waits that double
            from half a second, or as long as the server says.
        max_new_tokens: of one answer.
        attempts: how often a question is asked until its answer can be used.
        temperature: the range, at least 0, from which each canvas draws that of its layout.
        obj_ratio: ask for the real sizes of the things.
        verify_backgrounds: ask of each suggested background whether the things could be there, and leave out others.
        json_schema: have the server hold the answers to a JSON schema.
        extra: more fields of the request: ``{chat_template_kwargs: {enable_thinking: false}}``.
        coco: the folder of COCO, for examples of layouts from it; without it, the prompt's own are used.
        coco_categories, coco_images_per_category, coco_exemplars, coco_seed: which of them, see ``coco_exemplars``.
        max_overlap, min_side, min_area, max_area, max_aspect: of the boxes, see ``validation.Limits``.

    Source: Yeh et al. 2024, "Gen4Gen", arXiv 2402.15504.
    """

    def __init__(
        self,
        base_url: str = "http://localhost:8000/v1",
        model: str = "Qwen/Qwen3-4B-Instruct-2507",
        *,
        api_key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 120.0,
        max_retries: int = 5,
        max_new_tokens: int = 1024,
        attempts: int = 3,
        temperature: Sequence[float] = (0.0, 1.0),
        obj_ratio: bool = False,
        verify_backgrounds: bool = False,
        json_schema: bool = False,
        extra: Mapping[str, Any] | None = None,
        coco: str | None = None,
        coco_categories: Sequence[str] | None = None,
        coco_images_per_category: int = 10,
        coco_exemplars: int = 50,
        coco_seed: int = 0,
        max_overlap: float = 0.1,
        min_side: float = 32.0,
        min_area: float = 0.004,
        max_area: float = 0.9,
        max_aspect: float = 8.0,
    ) -> None:
        check_address(base_url)
        self.base_url, self.model, self.api_key_variable = base_url, model, api_key_variable
        self.concurrency, self.timeout, self.max_retries = concurrency, timeout, max_retries
        self.max_new_tokens, self.attempts, self.temperature = max_new_tokens, attempts, tuple(temperature)
        self.obj_ratio, self.verify_backgrounds = obj_ratio, verify_backgrounds
        self.json_schema, self.extra = json_schema, extra
        self.coco, self.coco_categories = coco, coco_categories
        self.coco_images_per_category, self.coco_exemplars = coco_images_per_category, coco_exemplars
        self.coco_seed, self.max_overlap, self.min_side = coco_seed, max_overlap, min_side
        self.min_area, self.max_area, self.max_aspect = min_area, max_area, max_aspect

    def plan(self, requests: Sequence[LayoutRequest]) -> list[LayoutPlan]:
        """One plan per request, in order. Also where an event loop runs.

        Raises:
            ConnectionError: the server cannot be reached.
            TimeoutError: it does not answer in time.
            RuntimeError: it has too many requests (429), after all retries.
            CheckpointError: it refuses the key, or does not know the model.
            OSError: COCO's files are not there.
            ValueError: a setting makes no sense.
        """
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency}")
        conversation = self._conversation
        return run(self._plan_all([conversation.plan(x) for x in requests])) if requests else []

    async def _plan_all(self, conversations: Sequence[Planning]) -> list[LayoutPlan]:
        limit, asked = asyncio.Semaphore(self.concurrency), dict[str, asyncio.Task[str]]()
        async with self._endpoint.connect() as client:

            async def answer(question: Question) -> str:
                async with limit:
                    return await self._answer(client, question)

            def ask(question: Question) -> asyncio.Task[str]:
                if question.key not in asked:  # nor is it under way
                    asked[question.key] = asyncio.create_task(answer(question))
                return asked[question.key]

            tasks = [asyncio.create_task(_carry_on(x, ask)) for x in conversations]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            finally:  # the first failure is one of all, and nothing goes on behind the caller's back
                failures = [x.exception() for x in tasks if x.done() and not x.cancelled()]
                for task in (*tasks, *asked.values()):
                    task.cancel()
                await asyncio.gather(*tasks, *asked.values(), return_exceptions=True)
        found = [x for x in failures if x is not None]
        if found:
            raise next((x for x in found if isinstance(x, CheckpointError)), found[0])
        return [x.result() for x in tasks]

    async def _answer(self, client: Any, question: Question) -> str:
        """One reply, from memory if it was asked before; the client retries by itself."""
        if question.key not in self._replies:
            text = await self._endpoint.reply(
                client,
                [{"role": role, "content": text} for role, text in question.messages],
                max_tokens=self.max_new_tokens,
                temperature=question.temperature,
                seed=question.seed,
                schema=question.schema,
                extra=self.extra,
            )
            self._replies[question.key] = text
            for key in list(self._replies)[:-_REMEMBERED]:
                del self._replies[key]
        return self._replies[question.key]

    @cached_property
    def _replies(self) -> dict[str, str]:
        return {}

    @property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self.base_url, self.model, self.api_key_variable, self.timeout, self.max_retries)

    @cached_property
    def _conversation(self) -> Conversation:
        return Conversation.of(self, self.model)


async def _carry_on(conversation: Planning, ask: Callable[[Question], Awaitable[str]]) -> LayoutPlan:
    """One conversation, to its end."""
    question = next(conversation)
    while True:
        try:
            step = partial(conversation.send, await ask(question))
        except ChatError as error:
            if error.status == 429:  # it is not about this canvas
                raise
            step = partial(conversation.throw, error)
        try:
            question = step()
        except StopIteration as end:
            return end.value
