"""LLMEngine on the demo model: generate, add_request and step, callbacks that raise, abort, bad input."""
import gzip
import json
import subprocess
import threading

import pytest

from atom import EngineError, LLMEngine, RequestOutput, SamplingParams
from atom._program import program_path

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)
KEYS = ["text", "token_ids", "latency", "finish_reason", "num_tokens_input", "num_tokens_output", "ttft", "tpot"]


def finish(engine):
    sequences = []
    while not engine.is_finished():
        sequences += engine.step()
    return sequences


def test_generate_equals_the_native_program(engine, demo_model):
    prompts = ["The capital of France is", "One, two, three,", "水は"]
    outputs = engine.generate(prompts, GREEDY)
    for prompt, output in zip(prompts, outputs):
        native = subprocess.run(
            [program_path(), "generate", demo_model, "--prompt", prompt, "--temperature", "0", "--max-tokens", "12",
             "--json", "--max-model-len", "1024", "--kv-cache-memory-gb", "0.25", "--device", "cpu"],
            capture_output=True, text=True, check=True)
        expected = json.loads(native.stdout)
        assert (output["text"], output["token_ids"]) == (expected["text"], expected["token_ids"])
        assert list(output) == KEYS == list(expected)
        assert output["finish_reason"] == expected["finish_reason"]
        assert output["num_tokens_output"] == len(output["token_ids"]) <= 12
        assert 0 < output["ttft"] <= output["latency"]


def test_a_prompt_may_be_text_or_ids_and_stand_alone(engine):
    text = "The capital of France is"
    ids = engine.tokenizer.encode(text)
    expected = engine.generate([text], GREEDY)[0]["token_ids"]
    for prompts in (text, ids, [ids], (text,), [tuple(ids)]):
        assert [out["token_ids"] for out in engine.generate(prompts, GREEDY)] == [expected]
    assert engine.generate([]) == []


def test_each_prompt_may_have_its_own_parameters(engine):
    params = [SamplingParams(temperature=0.0, max_tokens=3), SamplingParams(temperature=0.0, max_tokens=5)]
    outputs = engine.generate(["One,", "Two,"], params)
    assert [out["num_tokens_output"] for out in outputs] == [3, 5]
    with pytest.raises(ValueError, match="2 prompts but 1"):
        engine.generate(["One,", "Two,"], params[:1])


def test_n_choices_follow_each_other_and_differ(engine):
    outputs = engine.generate(["Once", "Twice"], SamplingParams(n=3, seed=1, max_tokens=8, ignore_eos=True))
    assert len(outputs) == 6
    assert len({tuple(out["token_ids"]) for out in outputs[:3]}) > 1


def test_stop_strings_seed_and_logprobs(engine):
    (output,) = engine.generate("1, 2, 3, 4,", SamplingParams(temperature=0.0, max_tokens=20, stop_strings=["6"]))
    assert output["finish_reason"] == "stop"
    assert "5" in output["text"] and "6" not in output["text"]
    seeded = SamplingParams(seed=7, max_tokens=8, ignore_eos=True)
    assert engine.generate("Once", seeded)[0]["text"] == engine.generate("Once", seeded)[0]["text"]
    (output,) = engine.generate("Hello", SamplingParams(temperature=0.0, max_tokens=3, logprobs=2, prompt_logprobs=1))
    assert [entry["token_id"] for entry in output["logprobs"]] == output["token_ids"]
    assert all(entry["top_logprobs"][0]["logprob"] == entry["logprob"] for entry in output["logprobs"])
    assert output["prompt_logprobs"][0] is None
    assert len(output["prompt_logprobs"]) == output["num_tokens_input"]


def test_structured_outputs_are_kept_to(engine):
    params = SamplingParams(max_tokens=20, structured_outputs={"choice": ["red", "green"]})
    assert engine.generate("My favourite colour is", params)[0]["text"] in ("red", "green")


def test_max_tokens_is_cut_to_what_the_context_leaves(engine):
    (output,) = engine.generate("word " * 1000, SamplingParams(max_tokens=10**12, ignore_eos=True))
    assert output["finish_reason"] == "length"
    assert output["num_tokens_input"] + output["num_tokens_output"] == engine.max_model_len


def test_streaming_gives_the_pieces_of_the_whole(engine):
    pieces = {}
    ids = engine.add_request(["The capital of France is", "One, two,"], GREEDY,
                             stream_callback=lambda output: pieces.setdefault(output.request_id, []).append(output))
    sequences = {sequence.id: sequence for sequence in finish(engine)}
    assert sorted(sequences) == ids
    expected = engine.generate(["The capital of France is", "One, two,"], GREEDY)
    for request_id, whole in zip(ids, expected):
        outputs = pieces[request_id]
        assert all(isinstance(output, RequestOutput) for output in outputs)
        assert "".join(output.text for output in outputs) == whole["text"] == sequences[request_id].text
        assert sum((output.output_tokens for output in outputs), []) == whole["token_ids"]
        assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
        assert outputs[-1].finish_reason == whole["finish_reason"] == sequences[request_id].finish_reason
        assert list(sequences[request_id].as_dict()) == KEYS


def test_a_callback_that_raises_ends_its_request_only(engine):
    class Trouble(Exception):
        pass

    def fail(output):
        raise Trouble(output.request_id)

    params = SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True)
    bad, good = engine.add_request(["Bad", "Good"], params, stream_callback=[fail, None])
    sequences, raised = [], []
    while not engine.is_finished():
        try:
            sequences += engine.step()
        except Trouble as error:
            raised += error.args
    assert raised == [bad]
    assert [(sequence.id, sequence.num_tokens_output) for sequence in sequences] == [(good, 20)]
    assert engine.generate("Still here", GREEDY)[0]["num_tokens_output"] > 0
    assert engine.stats()["num_running"] == 0


def test_abort_returns_what_there_was(engine):
    (request_id,) = engine.add_request("Count for ever: 1, 2,", SamplingParams(max_tokens=900, ignore_eos=True))
    engine.step()
    engine.abort(request_id)
    engine.abort([request_id, 10**9])
    (sequence,) = finish(engine)
    assert sequence.finish_reason == "abort"
    assert 0 < sequence.num_tokens_output < 900
    assert engine.step() == []


def test_step_waits_no_longer_than_it_is_told(engine):
    assert engine.step(timeout=10) == []  # nothing runs: at once
    engine.add_request("Go", SamplingParams(max_tokens=200, ignore_eos=True))
    while not engine.is_finished():
        engine.step(timeout=0.001)


def test_threads_may_generate_at_once(engine):
    expected = engine.generate(["One,", "Two,", "Three,", "Four,"], GREEDY)
    results = [None] * 4

    def work(i, prompt):
        results[i] = engine.generate(prompt, GREEDY)[0]["token_ids"]

    threads = [threading.Thread(target=work, args=item) for item in enumerate(["One,", "Two,", "Three,", "Four,"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [out["token_ids"] for out in expected]


@pytest.mark.parametrize("prompts, error, message", [
    ([["a"]], TypeError, "prompt 0: must be a str or a sequence of token ids, not list"),
    ([3.5], TypeError, "prompt 0: must be a str or a sequence of token ids, not float"),
    (["ok", {"prompt": "no"}], TypeError, "prompt 1: must be a str"),
    ([b"bytes"], TypeError, "prompt 0: must be a str or a sequence of token ids, not bytes"),
    ([[]], ValueError, "prompt"),
    ([[10**6]], ValueError, "token"),
    ([[-1]], ValueError, "token"),
    ([[2**40]], TypeError, "prompt 0"),
    (["ok", "word " * 5000], ValueError, "prompt 1: "),
    (["\ud800"], UnicodeEncodeError, "surrogates"),
])
def test_wrong_prompts_are_refused_by_name(engine, prompts, error, message):
    with pytest.raises(error, match=message):
        engine.generate(prompts, GREEDY)
    with pytest.raises(error):
        engine.add_request(prompts, GREEDY)
    assert engine.is_finished()


@pytest.mark.parametrize("params, error, message", [
    ({"temperature": -1}, ValueError, "temperature must be at least 0"),
    ({"temperature": float("nan")}, ValueError, "temperature must be a finite number"),
    ({"temperature": "hot"}, ValueError, "temperature must be a number"),
    ({"temperature": object()}, TypeError, "temperature"),
    ({"top_p": 0}, ValueError, "top_p must be greater than 0"),
    ({"max_tokens": 0}, ValueError, "max_tokens must be at least 1"),
    ({"max_tokens": 2**70}, ValueError, "max_tokens: does not fit 64 bits"),
    ({"min_tokens": 100, "max_tokens": 5}, ValueError, "min_tokens must be at most max_tokens"),
    ({"n": 0}, ValueError, "n must be at least 1"),
    ({"stop_strings": [1]}, ValueError, "stop"),
    ({"stop_token_ids": [10**7]}, ValueError, "stop_token_ids"),
    ({"logit_bias": {"x": 1}}, ValueError, "logit_bias"),
    ({"logit_bias": {10**7: 1}}, ValueError, "logit_bias"),
    ({"logit_bias": {5: float("inf")}}, ValueError, "logit_bias must be a finite number"),
    ({"structured_outputs": {"regex": "("}}, ValueError, "Regex parsing error"),
])
def test_wrong_parameters_are_refused_by_name(engine, params, error, message):
    with pytest.raises(error, match=message):
        engine.generate("Hello", SamplingParams(**params))
    with pytest.raises(error, match=message):
        engine.add_request("Hello", SamplingParams(**params))
    assert engine.is_finished()


def test_what_is_not_sampling_params_is_refused(engine):
    with pytest.raises(TypeError, match="expected SamplingParams, not dict"):
        engine.generate(["a"], [{"temperature": 0}])


def test_chat_and_tokenizer(engine):
    tokenizer = engine.tokenizer
    assert tokenizer.decode(tokenizer.encode("Hello, 世界!")) == "Hello, 世界!"
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], enable_thinking=True)
    assert prompt.endswith("<|im_start|>assistant\n")
    assert engine.chat([{"role": "user", "content": "What is 1+1?"}], GREEDY)["num_tokens_output"] > 0
    with pytest.raises(ValueError, match="messages"):
        tokenizer.apply_chat_template([{"content": "no role"}])


def test_mtp_statistics_are_printed(engine, demo_model, capsys):
    engine.print_mtp_statistics()
    assert capsys.readouterr().out == "MTP Statistics: speculative decoding is off\n"
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    with LLMEngine(demo_model, max_model_len=256, kv_cache_memory_gb=0.05, method="ngram", num_speculative_tokens=3) as drafting:
        text = "one two three four one two three four one two"
        assert drafting.generate([text], params)[0]["text"] == engine.generate([text], params)[0]["text"]
        drafting.print_mtp_statistics()
        drafted, accepted = (drafting.stats()[key] for key in ("total_draft_tokens", "total_accepted_tokens"))
    assert drafted > accepted > 0
    assert capsys.readouterr().out == (f"MTP Statistics:\n  Total draft tokens: {drafted}\n  Accepted tokens:    {accepted}\n"
                                       f"  Acceptance rate:    {accepted / drafted:.2%}\n")
    # Every way to say how many: also the one that is the default of the other method.
    for given in ({"method": "ngram", "num_speculative_tokens": 1},
                  {"speculative_config": {"method": "ngram", "num_speculative_tokens": 1}},
                  {"speculative_config": '{"method": "ngram", "num_speculative_tokens": 1}'}):
        with LLMEngine(demo_model, max_model_len=256, kv_cache_memory_gb=0.05, **given) as drafting:
            drafting.generate(["one two three four one two three four one two"], params)
            assert 0 < drafting.stats()["total_accepted_tokens"] and drafting.stats()["tokens_per_forward"] <= 2
    with pytest.raises(ValueError, match="speculative_config: eagle_model: unknown key"):
        LLMEngine(demo_model, speculative_config={"eagle_model": "x"})
    with pytest.raises(ValueError, match="no layer that drafts"):
        LLMEngine(demo_model, method="mtp")


def test_profiling(engine, demo_model, tmp_path):
    with pytest.raises(ValueError, match="torch-profiler-dir"):
        engine.start_profile()
    with LLMEngine(demo_model, max_model_len=256, kv_cache_memory_gb=0.05, torch_profiler_dir=str(tmp_path)) as traced:
        with pytest.raises((ValueError, EngineError)):
            traced.stop_profile()
        traced.start_profile()
        with pytest.raises((ValueError, EngineError)):
            traced.start_profile()
        traced.generate("Hello", GREEDY)
        (path,) = traced.stop_profile()
        with gzip.open(path) as file:
            names = {event.get("name", "") for event in json.load(file)["traceEvents"]}
        assert any(name.startswith("prefill[bs=1 tok=") for name in names)
        assert any(name.startswith("decode[bs=1 tok=1") for name in names)


def test_a_closed_engine_says_so(demo_model):
    with LLMEngine(demo_model, max_model_len=256, kv_cache_memory_gb=0.05) as engine:
        engine.add_request("Go on", SamplingParams(max_tokens=200, ignore_eos=True))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.generate("x")
    with pytest.raises(EngineError, match="closed"):
        engine.add_request("x")
    assert engine.is_finished() and engine.step() == []


@pytest.mark.parametrize("config, error, message", [
    ({"block_size": 7}, ValueError, "block_size: 7: not a block size"),
    ({"block_size": "16"}, TypeError, "block_size: expected int, not str"),
    ({"enforce_eager": 1}, TypeError, "enforce_eager: expected a bool"),
    ({"kv_cache_dtype": "int3"}, ValueError, "kv_cache_dtype: int3: unknown value"),
    ({"tensor_parallel_size": 8}, ValueError, "tensor_parallel_size: 8: not supported yet"),
    ({"no_such": 1}, TypeError, "no_such"),
])
def test_wrong_configurations_are_refused_by_name(demo_model, config, error, message):
    with pytest.raises(error, match=message):
        LLMEngine(demo_model, **config)


def test_a_model_that_is_not_there():
    with pytest.raises((FileNotFoundError, ValueError), match="no_such.gguf"):
        LLMEngine("/no_such.gguf")
