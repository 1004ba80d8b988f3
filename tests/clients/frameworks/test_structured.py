"""Pydantic models in, instances out, as the packages' first pages show it: instructor, LangChain, LiteLLM and the openai
package; by a JSON schema and by a demanded tool call, whole and streamed. The model is far too small to do this by
itself: what comes back is what the server enforces."""
import asyncio
import typing

import httpx
import instructor
import litellm
import openai
import pydantic
import pytest
from instructor.core import InstructorRetryException
from langchain_openai import ChatOpenAI

from demo import NAME, built_without_grammars


class User(pydantic.BaseModel):
    """A person."""

    age: int = pydantic.Field(ge=0, le=120)
    likes: typing.Literal["red", "green", "blue"]
    is_tall: bool


MESSAGES = [{"role": "user", "content": "Jason is 25 years old, tall and likes red."}]
ASK = {"messages": MESSAGES, "max_tokens": 100, "temperature": 0}
MODES = [instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS]


@pytest.fixture(scope="module", autouse=True)
def enforced(base_url):
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    answer = httpx.post(base_url + "/chat/completions", json={**ASK, "max_tokens": 1, "response_format": schema}, timeout=60)
    if answer.status_code == 400 and built_without_grammars(answer.text):
        pytest.skip("this build enforces no schemas: " + answer.json()["error"]["message"])
    assert answer.status_code == 200, answer.text


def check(user):
    assert isinstance(user, User) and user.likes in ("red", "green", "blue") and 0 <= user.age <= 120 and isinstance(user.is_tall, bool)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_instructor(base_url, mode):
    client = instructor.from_openai(openai.OpenAI(base_url=base_url, api_key="none", max_retries=0), mode=mode)
    user, raw = client.chat.completions.create_with_completion(model=NAME, response_model=User, max_retries=0, **ASK)
    check(user)
    assert raw.usage.completion_tokens > 5
    partial = None
    for partial in client.chat.completions.create_partial(model=NAME, response_model=User, max_retries=0, **ASK):
        pass
    assert (partial.age, partial.likes, partial.is_tall) == (user.age, user.likes, user.is_tall)

    async def run():
        aclient = instructor.from_openai(openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0), mode=mode)
        return await aclient.chat.completions.create(model=NAME, response_model=User, max_retries=0, **ASK)

    assert asyncio.run(run()).model_dump() == user.model_dump()


def test_instructor_errors(base_url):
    client = instructor.from_openai(openai.OpenAI(base_url=base_url, api_key="none", max_retries=0), mode=instructor.Mode.JSON_SCHEMA)
    with pytest.raises(InstructorRetryException, match="does not exist"):
        client.chat.completions.create(model="other", response_model=User, max_retries=0, **ASK)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_with_structured_output(base_url, method):
    model = ChatOpenAI(model=NAME, base_url=base_url, api_key="none", temperature=0, max_tokens=100, max_retries=0)
    structured = model.with_structured_output(User, method=method)
    user = structured.invoke("Jason is 25, tall and likes red.")
    check(user)
    assert list(structured.stream("Jason is 25, tall and likes red."))[-1] == user


def test_langchain_bind_tools(base_url):
    model = ChatOpenAI(model=NAME, base_url=base_url, api_key="none", temperature=0, max_tokens=100, max_retries=0)
    bound = model.bind_tools([User], tool_choice="any")
    [call] = bound.invoke("Jason is 25, tall and likes red.").tool_calls
    assert call["name"] == "User" and call["id"] and check(User(**call["args"])) is None
    total = None
    for chunk in bound.stream("Jason is 25, tall and likes red."):
        total = chunk if total is None else total + chunk
    assert [(c["name"], c["args"]) for c in total.tool_calls] == [("User", call["args"])]


def test_litellm_schema(base_url):
    """Its tool calls need the package `mcp`, which LiteLLM does not ask for."""
    ask = {"model": "hosted_vllm/" + NAME, "api_base": base_url, "api_key": "none", **ASK}
    check(User.model_validate_json(litellm.completion(**ask, response_format=User).choices[0].message.content))


def test_openai_parse(base_url):
    client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0)
    check(client.chat.completions.parse(model=NAME, response_format=User, **ASK).choices[0].message.parsed)
    tool = openai.pydantic_function_tool(User)
    answer = client.chat.completions.parse(model=NAME, tools=[tool], tool_choice="required", **ASK).choices[0]
    assert answer.finish_reason == "tool_calls"
    check(answer.message.tool_calls[0].function.parsed_arguments)
    with client.chat.completions.stream(model=NAME, response_format=User, **ASK) as stream:
        stream.until_done()
        check(stream.get_final_completion().choices[0].message.parsed)
