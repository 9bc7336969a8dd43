"""The requests that clients may send. A field that isn't listed is refused by name, never silently ignored.

Fields that don't concern the text (`user`, `metadata`, `keep_alive` …) are accepted and have no effect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from llmlite.serve.faults import Fault

# otherwise each wrong item is kept as an error of a kilobyte, and an item may take three bytes
FAIL_FAST: Any = Field(fail_fast=True)
Ids = Annotated[list[int], FAIL_FAST]
Texts = Annotated[list[str], FAIL_FAST]
Objects = Annotated[list[dict[str, Any]], FAIL_FAST]
Prompt = str | Texts | Ids | Annotated[list[Ids], FAIL_FAST]
Natural = Annotated[int, Field(ge=0)]
MAX_STOPS = 64
UNKNOWN = "extra_forbidden"


class _Strict(BaseModel):
    """A model without conversions: "5" isn't accepted for 5, nor true for 1."""

    # not extra="forbid", which keeps each unknown field as an error of a kilobyte
    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.model_extra or ():
            raise PydanticCustomError(UNKNOWN, "{name}", {"name": name})
        return self


class Sampling(_Strict):
    """The options for choosing tokens. None means llmlite's default."""

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Natural | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: dict[str, Any] | None = None  # options.py checks its numbers
    seed: Natural | None = None
    stop: str | Annotated[Texts, Field(max_length=MAX_STOPS)] | None = None


class StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(_Strict):
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class _Request(Sampling):
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    grammar: str | None = None  # GBNF, as llama.cpp's server has it
    regex: str | None = None
    # no effect
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: Annotated[Objects, Field(min_length=1)]
    max_tokens: Natural | None = None
    max_completion_tokens: Natural | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Objects | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    modalities: Annotated[list[Literal["text"]], FAIL_FAST] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(_Request):
    """POST /v1/completions."""

    prompt: Prompt
    max_tokens: Natural | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    suffix: str | None = None


class TokenizeRequest(_Strict):
    """POST /tokenize: a text, or a conversation."""

    prompt: str | None = None
    messages: Annotated[Objects, Field(min_length=1)] | None = None
    model: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    # of a conversation
    add_generation_prompt: bool | None = None
    tools: Objects | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(_Strict):
    """POST /detokenize."""

    tokens: Ids
    model: str | None = None


class EmbeddingRequest(_Strict):
    """POST /v1/embeddings."""

    input: Prompt
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


class OllamaOptions(_Strict):
    """The `options` of ollama. Those about ollama's own machinery have no effect."""

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_k: Natural | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_last_n: Annotated[int, Field(ge=-1)] | None = None
    seed: int | None = None
    num_predict: int | None = None
    stop: str | Annotated[Texts, Field(max_length=MAX_STOPS)] | None = None
    num_ctx: Natural | None = None
    # no effect
    num_keep: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    numa: bool | None = None
    low_vram: bool | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None


class _OllamaRequest(_Strict):
    model: str | None = None
    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: OllamaOptions | None = None
    keep_alive: str | float | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class OllamaChat(_OllamaRequest):
    """POST /api/chat."""

    messages: Objects = []
    tools: Objects | None = None


class OllamaGenerate(_OllamaRequest):
    """POST /api/generate."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    template: str | None = None
    images: Texts | None = None
    context: Ids | None = None


class OllamaEmbed(_Strict):
    """POST /api/embed."""

    input: str | Texts
    model: str | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    options: OllamaOptions | None = None
    keep_alive: str | float | None = None


class OllamaEmbeddings(_Strict):
    """POST /api/embeddings, the older form."""

    prompt: str
    model: str | None = None
    options: OllamaOptions | None = None
    keep_alive: str | float | None = None


class OllamaShow(_Strict):
    """POST /api/show."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None
    system: str | None = None
    template: str | None = None
    options: dict[str, Any] | None = None


def read(kind: type[Any], body: bytes) -> Any:
    """Read a request.

    Args:
        kind: its class.
        body: its JSON.

    Raises:
        Fault: If the body isn't JSON, or isn't a request of this class. The message names the field.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        first = found[0]
        if first["type"] == "json_invalid":
            raise Fault(400, f"the body is not JSON: {first['msg']}") from None
        where = _place(first["loc"])
        if first["type"] == UNKNOWN:
            where = _place((*first["loc"], first["msg"]))
            raise Fault(
                400, f"{where}: this server has no such field", param=where, code="unknown_field"
            ) from None
        if first["type"] == "missing":
            raise Fault(400, f"{where}: missing", param=where, code="missing_field") from None
        more = {each["msg"] for each in found if _place(each["loc"])[: len(where)] == where}
        raise Fault(400, f"{where or 'body'}: {' or '.join(sorted(more))}", param=where or None) from None


def _place(parts: tuple[int | str, ...]) -> str:
    """Return a field's path, such as `messages[0].role`, without pydantic's names for branches of a union."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif (part.isidentifier() and part not in ("str", "int", "float", "bool")) or not text:
            text += f".{part}" if text else part
    return text
