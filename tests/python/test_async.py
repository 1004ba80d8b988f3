"""AsyncLLMEngine: many tasks, cancellation, errors, several loops."""
import asyncio

import pytest

from atom import AsyncLLMEngine, EngineArgs, EngineError, SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)


@pytest.fixture(scope="module")
def async_engine(demo_model):
    engine = AsyncLLMEngine.from_engine_args(EngineArgs(demo_model, max_model_len=512, kv_cache_memory_gb=0.1))
    yield engine
    engine.close()


async def text_of(engine, prompt, params=GREEDY):
    text = ""
    async for output in engine.generate(prompt, params):
        text += output.text
    return text


def test_tasks_run_together(async_engine):
    async def main():
        prompts = [f"{i}, {i + 1}," for i in range(20)]
        return prompts, await asyncio.gather(*(text_of(async_engine, prompt) for prompt in prompts))

    prompts, texts = asyncio.run(main())
    assert texts == [out["text"] for out in async_engine.engine.generate(prompts, GREEDY)]


def test_every_loop_has_its_own_channel(async_engine):
    first = asyncio.run(text_of(async_engine, "One, two,"))
    assert asyncio.run(text_of(async_engine, "One, two,")) == first != ""


def test_choices_and_grammars(async_engine):
    async def main():
        texts = ["", "", ""]
        params = SamplingParams(n=3, max_tokens=10, structured_outputs={"regex": "[ab]{3}"})
        async for output in async_engine.generate("ab", params):
            texts[output.index] += output.text
        return texts

    assert all(len(text) == 3 and set(text) <= set("ab") for text in asyncio.run(main()))


def test_leaving_early_aborts(async_engine):
    async def idle():
        for _ in range(100):
            if async_engine.engine.stats()["num_running"] == 0:
                return True
            await asyncio.sleep(0.02)
        return False

    async def main():
        endless = SamplingParams(max_tokens=400, ignore_eos=True)
        outputs = async_engine.generate("Go", endless)
        await anext(outputs)
        await outputs.aclose()
        assert await idle()
        task = asyncio.create_task(text_of(async_engine, "Go", endless))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await idle()

    asyncio.run(main())


def test_wrong_input_raises_at_once(async_engine):
    with pytest.raises(ValueError, match="top_p"):
        asyncio.run(text_of(async_engine, "x", SamplingParams(top_p=2)))
    with pytest.raises(ValueError, match="Regex parsing error"):
        asyncio.run(text_of(async_engine, "x", SamplingParams(structured_outputs={"regex": "("})))


def test_closing_ends_the_tasks(demo_model):
    async def main():
        async with AsyncLLMEngine(demo_model, max_model_len=512, kv_cache_memory_gb=0.1) as engine:
            task = asyncio.create_task(text_of(engine, "Go", SamplingParams(max_tokens=400, ignore_eos=True)))
            await asyncio.sleep(0.2)
        with pytest.raises(EngineError, match="closed"):
            await task
        with pytest.raises(EngineError, match="closed"):
            await text_of(engine, "x")

    asyncio.run(main())
