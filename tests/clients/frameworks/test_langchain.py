"""langchain-openai as its integration page shows it: invoke, stream, batch, chains, async, errors."""
import asyncio

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI

from demo import NAME
from running_server import wait_until

PIRATE = [SystemMessage("You translate to French."), HumanMessage("I love programming.")]


@pytest.fixture
def model(base_url):
    return ChatOpenAI(model=NAME, base_url=base_url, api_key="none", temperature=0, max_tokens=8, max_retries=0)


def test_invoke_and_stream(model):
    whole = model.invoke(PIRATE)
    assert isinstance(whole, AIMessage) and whole.content and whole.response_metadata["finish_reason"] == "length"
    assert whole.response_metadata["model_name"] == NAME and whole.usage_metadata["output_tokens"] == 8
    total = None
    for chunk in model.stream(PIRATE, stream_usage=True):
        total = chunk if total is None else total + chunk
    assert total.content == whole.content and total.usage_metadata["output_tokens"] == 8
    assert total.response_metadata["finish_reason"] == "length"
    assert model.invoke([("system", "Be short."), ("human", "Hi"), ("ai", "Hello."), ("human", "Bye")]).content


def test_batch_chain_and_logprobs(model):
    answers = model.batch(["One", "Two", "One", "Two"])
    assert answers[0].content == answers[2].content and answers[1].content == answers[3].content
    chain = ChatPromptTemplate.from_messages([("system", "Say {word}."), ("human", "{question}")]) | model | StrOutputParser()
    asked = {"word": "yes", "question": "Now?"}
    assert "".join(chain.stream(asked)) == chain.invoke(asked)
    entries = model.bind(logprobs=True, top_logprobs=2).invoke("Hi").response_metadata["logprobs"]["content"]
    assert len(entries) == 8 and len(entries[0]["top_logprobs"]) == 2
    assert model.bind(stop=[" "]).invoke("Name three colours.").response_metadata["finish_reason"] == "stop"


def test_async(model):
    async def run():
        whole = await model.ainvoke("Hi")
        text = "".join([c.content async for c in model.astream("Hi")])
        return whole.content, text, [a.content for a in await model.abatch(["Hi", "Hi"])]

    whole, text, batch = asyncio.run(run())
    assert text == whole and batch == [whole, whole]


def test_completion_model(base_url):
    model = OpenAI(model=NAME, base_url=base_url, api_key="none", temperature=0, max_tokens=4, max_retries=0)
    whole = model.invoke("The sky is")
    assert whole and "".join(model.stream("The sky is")) == whole
    assert [g[0].text for g in model.generate(["The sky is", "The sky is", "Hi"]).generations][:2] == [whole, whole]


def test_errors_and_cancel(model, base_url, demo):
    with pytest.raises(openai.NotFoundError):
        ChatOpenAI(model="other", base_url=base_url, api_key="none", max_retries=0).invoke("Hi")
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        model.invoke("a " * 4000)
    stream = model.bind(max_tokens=1900, extra_body={"ignore_eos": True}).stream("Hi")
    next(stream)
    stream.close()
    assert wait_until(lambda: demo.metric("atom:num_sequences_in_flight") == 0)
