// The conversation: settings, requests, the stream of an answer and the keys. State is `turns`
// (what is sent) with one view each; everything shown is made from it. It is kept for this tab only.
(() => {
  const id = (name) => document.getElementById(name);
  const kDefaults = { max_tokens: 1024 };
  const kNumbers = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "repetition_penalty"];
  const kTexts = ["system", "thinking", "model"];

  // Storage may be off (private windows): the page works without.
  const store = {
    get(area, key, fallback) {
      try { return JSON.parse(window[area].getItem("atom." + key)) ?? fallback; } catch { return fallback; }
    },
    set(area, key, value) {
      try { window[area].setItem("atom." + key, JSON.stringify(value)); } catch { /* full or off */ }
    },
  };

  const settings = store.get("localStorage", "settings", {});
  let key = store.get("sessionStorage", "key", "");  // never stored for longer than the tab
  let turns = store.get("sessionStorage", "turns", []);  // {role, text, thinking?, facts?}
  let models = [];
  let active = null;  // the request of the answer in progress

  // --- server ---

  function headers() {
    const out = { "Content-Type": "application/json" };
    if (key) out.Authorization = "Bearer " + key;
    return out;
  }

  async function failure(answer) {
    let message = `${answer.status} ${answer.statusText}`;
    try { message = (await answer.json()).error.message || message; } catch { /* not our server's words */ }
    if (answer.status === 401) {
      openSettings();
      id("s-key").focus();
      message = "This server wants an API key: enter it in the settings.";
    }
    return new Error(message);
  }

  async function loadModels() {
    try {
      const answer = await fetch("v1/models", { headers: headers() });
      if (!answer.ok) throw await failure(answer);
      models = (await answer.json()).data;
    } catch {
      models = [];
    }
    const names = models.map((m) => m.id);
    id("s-model").replaceChildren(...names.map((name) => new Option(name, name)));
    if (!names.includes(settings.model)) settings.model = names[0] ?? "";
    id("s-model").value = settings.model;
    id("model-field").hidden = names.length < 2;
    showModel();
  }

  function showModel() {
    const short = (settings.model ?? "").split("/").filter(Boolean).at(-1) ?? "";
    id("model").textContent = short;
    id("model").title = settings.model ?? "";
    id("welcome-model").textContent = short ? `You are talking to ${short}.` : "";
    const context = models.find((m) => m.id === settings.model)?.max_model_len;
    id("about").textContent = context ? `Context: ${context.toLocaleString("en")} tokens. Settings stay in this browser; the chat and the key in this tab.` : "";
  }

  function body() {
    const messages = [];
    if (settings.system) messages.push({ role: "system", content: settings.system });
    for (const turn of turns) {
      if (turn.text) messages.push({ role: turn.role, content: turn.text });
    }
    const out = {
      messages, stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
    };
    if (settings.model) out.model = settings.model;
    for (const name of kNumbers) {
      const value = settings[name] ?? kDefaults[name];
      if (value !== undefined) out[name] = value;
    }
    if (settings.thinking) out.chat_template_kwargs = { enable_thinking: settings.thinking === "on" };
    return JSON.stringify(out);
  }

  // Yields the JSON of every `data:` line.
  async function* events(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const part of parts) {
        if (!part.startsWith("data: ")) continue;
        if (part === "data: [DONE]") return;
        const event = JSON.parse(part.slice(6));
        if (event.error) throw new Error(event.error.message);
        yield event;
      }
    }
  }

  // A model without a reasoning parser says <think> in its text.
  function splitThinking(text) {
    const m = text.match(/^\s*<think>([^]*?)(?:<\/think>\s*([^]*))?$/);
    return m ? { thinking: m[1].trim(), text: m[2] ?? "", open: m[2] === undefined } : { thinking: "", text, open: false };
  }

  // --- one turn on the page ---

  class View {
    constructor(turn) {
      this.turn = turn;
      this.text = element("div", "text");
      this.tools = element("div", "tools");
      this.node = element("article", "turn " + turn.role, this.text, this.tools);
      this.node.setAttribute("aria-label", turn.role === "user" ? "You" : "Model");
      if (turn.role === "user") {
        this.text.textContent = turn.text;
        this.showTools(["copy", "edit"]);
        return;
      }
      this.markdown = new MarkdownView(this.text);
      this.details = element("details", "thinking", element("summary"), element("div", "text"));
      this.thoughts = new MarkdownView(this.details.lastChild);
      this.node.prepend(this.details);
      this.show();
    }
    show() {
      const turn = this.turn;
      const split = turn.thinking ? { thinking: turn.thinking, text: turn.text, open: false } : splitThinking(turn.text);
      const live = active?.view === this;
      this.details.hidden = !split.thinking;
      if (split.thinking) {
        const finished = !live || Boolean(split.text);
        const seconds = turn.thoughtMs >= 100 ? ` for ${(turn.thoughtMs / 1000).toFixed(1)} s` : "";
        this.details.firstChild.textContent = finished ? "Thought" + seconds : "Thinking …";
        this.thoughts.update(split.thinking);
      }
      this.markdown.update(split.text);
      this.node.classList.toggle("streaming", live && Boolean(split.text));
      this.wait?.remove();
      if (live && !split.text && !split.thinking) {
        this.wait = element("div", "waiting", element("i"), element("i"), element("i"));
        this.wait.setAttribute("aria-label", "Waiting for the first token");
        this.node.insertBefore(this.wait, this.tools);
      }
    }
    showTools(names) {
      const actions = {
        copy: ["Copy", (button) => copyText(splitThinking(this.turn.text).text, button)],
        edit: ["Edit and ask again", () => edit(this.turn)],
        again: ["Answer again", () => again(this.turn)],
      };
      this.tools.replaceChildren(...names.map((name) => iconButton(name, ...actions[name])));
    }
    showFacts(live) {
      const f = this.turn.facts;
      const parts = [];
      const add = (value, unit) => parts.push(element("b", "", value), " " + unit);
      if (f?.tokens > 1 && f.ms > f.ttft) add(((f.tokens - 1) / ((f.ms - f.ttft) / 1000)).toFixed(1), "tokens/s");
      if (f?.ttft) { parts.push(parts.length ? " · " : "", "first after "); add(f.ttft < 1000 ? f.ttft.toFixed(0) + " ms" : (f.ttft / 1000).toFixed(1) + " s", ""); }
      if (f?.tokens) { parts.push("· "); add(String(f.tokens), f.tokens === 1 ? "token" : "tokens"); }
      if (f?.end === "length") parts.push(" · cut at max tokens");
      if (f?.end === "stopped") parts.push(" · stopped");
      if (live) this.tools.replaceChildren();
      else this.showTools(["copy", "again"]);
      this.tools.append(element("span", "facts", ...parts));
    }
    showError(message) {
      const button = element("button", "", "Try again");
      button.addEventListener("click", () => again(this.turn));
      this.node.insertBefore(element("div", "failure", element("span", "", message), button), this.tools);
    }
  }

  const views = new Map();
  function render() {
    id("welcome").hidden = turns.length > 0;
    for (const [turn, view] of views) {
      if (!turns.includes(turn)) { view.node.remove(); views.delete(turn); }
    }
    for (const turn of turns) {
      if (views.has(turn)) continue;
      const view = new View(turn);
      views.set(turn, view);
      id("log").append(view.node);
      if (turn.role === "assistant" && turn !== active?.turn) view.showFacts(false);
    }
    id("send").hidden = active !== null;
    id("stop").hidden = active === null;
    id("send").disabled = id("input").value.trim() === "";
    store.set("sessionStorage", "turns", turns);
  }

  // --- an answer ---

  async function answer() {
    const turn = { role: "assistant", text: "" };
    const request = body();
    const started = performance.now();
    const run = active = { turn, abort: new AbortController(), view: null };
    turns.push(turn);
    render();
    const view = run.view = views.get(turn);
    view.show();
    follow(true);
    id("status").textContent = "The model is answering.";
    metricsStrip.poll();
    let frame = 0;
    let thoughtFrom = 0;
    const facts = turn.facts = { tokens: 0, ttft: 0, ms: 0, end: "" };
    const draw = () => {
      frame = 0;
      view.show();
      view.showFacts(true);
      follow();
    };
    let error = null;
    try {
      const reply = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body: request, signal: run.abort.signal });
      if (!reply.ok) throw await failure(reply);
      for await (const event of events(reply)) {
        if (event.usage) facts.tokens = event.usage.completion_tokens;
        const choice = event.choices?.[0];
        if (!choice) continue;
        const now = performance.now();
        facts.ttft ||= now - started;
        facts.ms = now - started;
        const thought = choice.delta.reasoning_content ?? choice.delta.reasoning;
        if (thought) {
          turn.thinking = (turn.thinking ?? "") + thought;
          thoughtFrom ||= now;
        }
        if (choice.delta.content) {
          if (thoughtFrom && !turn.thoughtMs) turn.thoughtMs = now - thoughtFrom;
          turn.text += choice.delta.content;
        }
        if (choice.finish_reason) facts.end = choice.finish_reason;
        frame ||= requestAnimationFrame(draw);
      }
      if (!facts.end) throw new Error("The server ended the answer early.");
    } catch (e) {
      if (e.name === "AbortError") facts.end = "stopped";
      else error = e instanceof TypeError ? "The server cannot be reached." : e.message;
    }
    cancelAnimationFrame(frame);
    if (active === run) active = null;
    if (!turns.includes(turn)) return;  // the chat was cleared meanwhile
    view.show();
    view.showFacts(false);
    if (error) view.showError(error);
    id("status").textContent = error ?? "The answer is complete.";
    render();
    follow();
    metricsStrip.poll();
  }

  function stop() { active?.abort.abort(); }

  function send(text) {
    if (active || !text.trim()) return;
    turns.push({ role: "user", text: text.trim() });
    id("input").value = "";
    grow();
    answer();
  }

  function again(turn) {
    stop();
    turns = turns.slice(0, turns.indexOf(turn));
    active = null;
    answer();
  }

  function edit(turn) {
    stop();
    active = null;
    turns = turns.slice(0, turns.indexOf(turn));
    id("input").value = turn.text;
    render();
    grow();
    id("input").focus();
  }

  function clear() {
    stop();
    active = null;
    turns = [];
    render();
    id("input").focus();
  }

  // --- the page ---

  let sticky = true;  // the reader is at the end and stays there
  function follow(force) {
    const scroll = id("scroll");
    if (force) sticky = true;
    if (sticky) scroll.scrollTop = scroll.scrollHeight;
    id("latest").hidden = sticky || turns.length === 0;
  }
  id("scroll").addEventListener("scroll", () => {
    const scroll = id("scroll");
    sticky = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 48;
    id("latest").hidden = sticky || turns.length === 0;
  }, { passive: true });

  function grow() {
    const input = id("input");
    input.style.height = "auto";
    input.style.height = input.scrollHeight + "px";
    id("send").disabled = input.value.trim() === "";
  }

  function theme(name) {
    document.documentElement.dataset.theme = name ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  }

  function openSettings() {
    for (const name of kNumbers) id("s-" + name).value = settings[name] ?? "";
    for (const name of kTexts) id("s-" + name).value = settings[name] ?? "";
    id("s-key").value = key;
    if (!id("settings").open) id("settings").showModal();
  }

  function readSettings() {
    for (const name of kNumbers) {
      const input = id("s-" + name);
      if (input.value === "" || !input.validity.valid) delete settings[name];
      else settings[name] = Number(input.value);
    }
    for (const name of kTexts) settings[name] = id("s-" + name).value;
    const changed = key !== id("s-key").value;
    key = id("s-key").value.trim();
    store.set("localStorage", "settings", settings);
    store.set("sessionStorage", "key", key);
    showModel();
    if (changed) loadModels();
  }

  id("composer").addEventListener("submit", (e) => { e.preventDefault(); send(id("input").value); });
  id("input").addEventListener("input", grow);
  id("input").addEventListener("keydown", (e) => {
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) {
      e.preventDefault();
      send(id("input").value);
    } else if (e.key === "ArrowUp" && id("input").value === "" && !active) {
      const last = turns.findLast((turn) => turn.role === "user");
      if (last) { e.preventDefault(); edit(last); }
    }
  });
  document.addEventListener("keydown", (e) => {
    const command = e.ctrlKey || e.metaKey;
    if (e.key === "Escape" && active && !id("settings").open) stop();
    else if (command && e.key === ",") { e.preventDefault(); openSettings(); }
    else if (command && e.shiftKey && e.key.toLowerCase() === "o") { e.preventDefault(); clear(); }
    else if (e.key === "/" && !e.target.closest("input, textarea, select")) { e.preventDefault(); id("input").focus(); }
  });
  id("stop").addEventListener("click", stop);
  id("new").addEventListener("click", clear);
  id("latest").addEventListener("click", () => follow(true));
  id("open-settings").addEventListener("click", openSettings);
  id("settings").addEventListener("close", readSettings);
  id("settings").addEventListener("click", (e) => { if (e.target === id("settings")) id("settings").close(); });
  id("reset").addEventListener("click", () => {
    for (const name of [...kNumbers, "system", "thinking"]) id("s-" + name).value = "";
  });
  id("theme").addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    store.set("localStorage", "theme", next);
    theme(next);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(store.get("localStorage", "theme", undefined)));
  id("ideas").addEventListener("click", (e) => { if (e.target.matches("button")) send(e.target.textContent); });

  theme(store.get("localStorage", "theme", undefined));
  render();
  grow();
  follow(true);
  loadModels();
  metricsStrip.poll();
})();
