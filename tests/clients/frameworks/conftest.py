"""The address of the demo server, and no outside service: LiteLLM and LangChain would call home."""
import os

import pytest

os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LANGSMITH_TRACING="false", LANGCHAIN_TRACING_V2="false",
                  DO_NOT_TRACK="1", OPENAI_API_KEY="none")


@pytest.fixture(scope="session")
def base_url(demo):
    return demo.base + "/v1"
