"""instructor as its README shows it: a pydantic model in, an instance out, in the modes for servers that enforce a
schema; partial streams, lists, errors."""
import asyncio
import enum

import instructor
import openai
import pydantic
import pytest

from demo import NAME


class Colour(enum.Enum):
    red = "red"
    green = "green"
    blue = "blue"


class User(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int = pydantic.Field(ge=0, le=120)
    colour: Colour


ASK = {"model": NAME, "messages": [{"role": "user", "content": "Jason is 25 years old and likes red."}], "max_tokens": 160,
       "temperature": 0, "max_retries": 0}
MODES = [instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS_STRICT, instructor.Mode.TOOLS]


def client(base_url, mode, cls=openai.OpenAI):
    return instructor.from_openai(cls(base_url=base_url, api_key="none", max_retries=0), mode=mode)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_an_instance_of_the_model(base_url, mode):
    user, raw = client(base_url, mode).chat.completions.create_with_completion(response_model=User, **ASK)
    assert isinstance(user, User) and isinstance(user.colour, Colour) and 0 <= user.age <= 120
    assert raw.usage.completion_tokens > 5
