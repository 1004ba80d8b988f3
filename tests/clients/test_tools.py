"""Forced tool calls of the openai SDK on a real model: whole, streamed, several choices; and the loop back."""
import json

import openai
import pytest

from demo import NAME, built_without_grammars

WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"], "additionalProperties": False}}}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}}
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def create(demo):
    client = openai.OpenAI(base_url=demo.base + "/v1", api_key="none", max_retries=0, timeout=120)

    def run(messages=ASK, tools=(WEATHER, CLOCK), **fields):
        fields = {"max_tokens": 120, "temperature": 0, "tool_choice": "required", "parallel_tool_calls": False, **fields}
        try:
            return client.chat.completions.create(model=NAME, messages=messages, tools=list(tools), **fields)
        except openai.BadRequestError as error:
            if error.param == "tool_choice" and built_without_grammars(str(error)):
                pytest.skip("built without the grammar library")
            raise
    return run


def accumulated(stream):
    """As the SDK's guide does: by index, id and name once, arguments appended."""
    calls, finish = {}, None
    for chunk in stream:
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for part in choice.delta.tool_calls or []:
                call = calls.setdefault(part.index, {"id": part.id, "name": part.function.name, "arguments": ""})
                assert part.id in (None, call["id"]) and part.function.name in (None, call["name"])
                call["arguments"] += part.function.arguments
    return list(calls.values()), finish


@pytest.mark.parametrize("name", [None, "get_weather", "clock"])
def test_forced_calls_keep_to_their_schema_whole_and_streamed(create, name):
    choice = {"type": "function", "function": {"name": name}} if name else "required"
    answer = create(tool_choice=choice).choices[0]
    [call] = answer.message.tool_calls
    assert answer.finish_reason == ("stop" if name else "tool_calls") and answer.message.content is None
    assert call.function.name == name or not name
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        assert set(arguments) == {"city", "unit"} and arguments["unit"] in ("C", "F") and len(arguments["city"]) <= 20
    else:
        assert arguments == {}
    [streamed], finish = accumulated(create(tool_choice=choice, stream=True))
    assert (streamed["name"], streamed["arguments"], finish) == (call.function.name, call.function.arguments, answer.finish_reason)
    assert streamed["id"].startswith("call_") and streamed["id"] != call.id


def test_every_choice_calls(create):
    answer = create(n=3, temperature=1, seed=5)
    ids = {call.id for choice in answer.choices for call in choice.message.tool_calls}
    assert len(ids) == 3
    for choice in answer.choices:
        json.loads(choice.message.tool_calls[0].function.arguments)


def test_a_call_cut_by_length_says_so(create):
    answer = create(tool_choice={"type": "function", "function": {"name": "get_weather"}}, max_tokens=12).choices[0]
    assert answer.finish_reason == "length"


def test_the_result_goes_back(create):
    message = create(tool_choice={"type": "function", "function": {"name": "get_weather"}}).choices[0].message
    history = [*ASK, message.model_dump(exclude_none=True),
               {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "22 degrees"}]
    assert create(messages=history, tool_choice="none", max_tokens=5).choices[0].message.tool_calls is None
