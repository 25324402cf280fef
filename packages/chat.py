"""Servers that speak OpenAI's chat protocol: the connection, one reply, and in plain words what went wrong.

Source: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html.
"""

import asyncio
import logging
import os
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from scenewright.checkpoints import CheckpointError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class ChatError(RuntimeError):
    """The server answers, but with an error, or with something that is no answer.

    Args:
        message: which server, and what it said.
        status: of the answer.
    """

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Endpoint:
    """A model of a server.

    Attributes:
        base_url: up to and including ``/v1``.
        model: as the server calls it.
        api_key_variable: the environment variable that holds the key; where it is not set, the key is "EMPTY", which
            local servers take.
        timeout: of one try, in seconds.
        max_retries: after timeouts, broken connections and the statuses 408, 409, 429 and 5xx.
    """

    base_url: str
    model: str
    api_key_variable: str
    timeout: float
    max_retries: int

    def connect(self) -> Any:
        """An asynchronous client, to be closed after use; it does the retries."""
        from openai import AsyncOpenAI

        key = os.environ.get(self.api_key_variable) or "EMPTY"
        return AsyncOpenAI(base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.max_retries)

    async def reply(
        self,
        client: Any,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int,
        temperature: float,
        seed: int | None = None,
        schema: tuple[str, Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of the server's answer; empty where it has none.

        Args:
            client: from ``connect``.
            messages: with ``role`` and ``content``.
            schema: a name, and the JSON schema that the server is to hold its answer to.
            extra: more fields of the request.

        Raises:
            ConnectionError: the server cannot be reached.
            TimeoutError: it does not answer in time.
            ChatError: it answers with an error, or with something that is no answer.
            CheckpointError: it refuses the key, or does not know the model.
        """
        fields: dict[str, Any] = {} if seed is None else {"seed": seed % 2**31}  # what every server takes
        if schema is not None:
            wanted = {"name": schema[0], "strict": True, "schema": dict(schema[1])}
            fields["response_format"] = {"type": "json_schema", "json_schema": wanted}
        try:
            reply = await client.chat.completions.create(
                model=self.model,
                messages=list(messages),
                max_tokens=max_tokens,
                temperature=temperature,
                extra_body=dict(extra or {}),
                **fields,
            )
            text = reply.choices[0].message.content
            if text is not None and not isinstance(text, str):
                raise TypeError(f"its content must be text, got {text!r:.80}")
        except Exception as error:
            raise self._explained(error, client.api_key) from error
        if (usage := reply.usage) is not None:
            logger.debug("%d calls: %d prompt tokens, %d new tokens", 1, usage.prompt_tokens, usage.completion_tokens)
        return text or ""

    def _explained(self, error: Exception, key: str) -> Exception:
        """What went wrong, for people: the server and what it said, never the key."""
        import openai

        server, tries = f"the chat server at {self.base_url}", f"after {self.max_retries + 1} tries"
        address = f"{self.base_url.rstrip('/')}/chat/completions"
        if isinstance(error, openai.APITimeoutError):
            return TimeoutError(f"{server} did not answer within {self.timeout:g} s, {tries}; raise timeout")
        if isinstance(error, openai.APIConnectionError):
            return ConnectionError(
                f"{server} cannot be reached, {tries}. It must answer POST {address} as OpenAI's API does: "
                f"start one, for example with `vllm serve {self.model}`, or set base_url"
            )
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            if status in (401, 403):
                return CheckpointError(f"{server} refuses the key in ${self.api_key_variable} (status {status})")
            said = " ".join(error.response.text.replace(key, "…").split())[:200]
            if status == 404:
                return CheckpointError(f"{server} knows no model {self.model!r}, or no such address (404): {said}")
            return ChatError(f"{server} answered with status {status}: {said}", status)
        what = f"{type(error).__name__}: {' '.join(str(error).replace(key, '…').split())[:200]}"
        return ChatError(f"{server} answered with something that is no chat completion ({what})")


def check_address(base_url: str) -> None:
    """Refuse an address that would tell a password to everybody who reads a record.

    Raises:
        ValueError: it has a user name or a password.
    """
    if "@" in urlsplit(base_url).netloc:
        raise ValueError("base_url must hold no user name or password; put the key into api_key_variable")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine; in a thread of its own where this one already runs a loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
