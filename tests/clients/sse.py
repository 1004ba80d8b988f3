"""Reads the event stream of a generation as strictly as the strictest client, and puts it together again.

`assemble(body)` takes the bytes of an event stream and asserts what holds for every one: frames of one `data:` line
of whole UTF-8, [DONE] once and last, one id, one model, the role exactly once per choice, exactly one finish_reason,
nothing of a choice after it. It gives the choices by index in the shape of the whole answer, and the usage."""
import json


def events(body):
    assert body.endswith(b"\n\n"), body[-100:]
    frames = body[:-2].split(b"\n\n")
    for frame in frames:
        assert frame.startswith(b"data: ") and b"\n" not in frame and b"\r" not in frame, frame
    assert frames[-1] == b"data: [DONE]" and frames.count(b"data: [DONE]") == 1
    return [json.loads(frame[6:].decode("utf-8", "strict")) for frame in frames[:-1]]


def assemble(body, usage_asked=False):
    chunks = events(body)
    assert len({(c["id"], c["object"], c["created"], c["model"]) for c in chunks}) == 1
    choices, usage = {}, None
    for number, chunk in enumerate(chunks):
        assert len(chunk["choices"]) <= 1
        if not chunk["choices"]:
            assert usage_asked and number == len(chunks) - 1
            usage = chunk["usage"]
            continue
        [part] = chunk["choices"]
        choice = choices.setdefault(part["index"], {"index": part["index"], "text": "", "token_ids": [], "finish_reason": None})
        assert choice["finish_reason"] is None, "a chunk after the finish"
        add(choice, part, chat=chunk["object"] == "chat.completion.chunk", first="role" not in choice)
        if part["finish_reason"] is not None:
            choice["finish_reason"], choice["stop_reason"] = part["finish_reason"], part["stop_reason"]
    assert (usage is not None) == usage_asked
    assert all(c["finish_reason"] in ("stop", "length") for c in choices.values())
    return [choices[i] for i in range(len(choices))], usage, chunks


def add(choice, part, chat, first):
    if chat:
        assert ("role" in part["delta"]) == first
        choice["role"] = part["delta"].get("role", choice.get("role"))
        choice["text"] += part["delta"].get("content") or ""
    else:
        choice["role"] = None
        choice["text"] += part["text"]
    choice["token_ids"] += part.get("token_ids") or []
    logprobs = part["logprobs"]
    if logprobs is not None:
        merged = choice.setdefault("logprobs", {key: [] for key in logprobs})
        for key, items in logprobs.items():
            merged[key] += items


def whole_choice(choice):
    """A choice of a whole answer in the shape that assemble() gives."""
    out = {"index": choice["index"], "finish_reason": choice["finish_reason"], "stop_reason": choice["stop_reason"],
           "token_ids": choice.get("token_ids") or []}
    message = choice.get("message")
    out["role"] = message["role"] if message else None
    out["text"] = (message["content"] if message else choice["text"]) or ""
    if choice["logprobs"] is not None:
        out["logprobs"] = choice["logprobs"]
    return out
