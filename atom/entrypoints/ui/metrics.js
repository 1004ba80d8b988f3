// The live strip: a few numbers of /metrics, asked for only while the page is visible, less often
// when nothing happens. An idle server with an open page answers one small request in ten seconds.
const metricsStrip = (() => {
  const kBusyMs = 1500;
  const kIdleMs = 10000;
  const kPoints = 30;
  const id = (name) => document.getElementById(name);
  const history = Array(kPoints).fill(0);  // tokens per second
  let previous = null;
  let timer = 0;
  let asking = false;

  function read(text, name) {
    let sum = 0;
    for (const m of text.matchAll(new RegExp("^" + name + "(?:\\{[^\\n]*\\})? (\\S+)$", "gm"))) sum += Number(m[1]);
    return sum;
  }

  function draw() {
    const top = Math.max(...history, 1);
    const points = history.map((v, i) => `${i * 60 / (kPoints - 1)},${17 - 16 * v / top}`);
    id("spark").firstElementChild.setAttribute("points", points.join(" "));
  }

  function show(text) {
    const now = performance.now();
    const tokens = read(text, "vllm:generation_tokens_total");
    const running = read(text, "vllm:num_requests_running");
    const waiting = read(text, "vllm:num_requests_waiting");
    const speed = previous && tokens >= previous.tokens ? (tokens - previous.tokens) / ((now - previous.now) / 1000) : 0;
    previous = { tokens, now };
    history.push(speed);
    history.shift();
    id("m-running").textContent = running;
    id("m-running").classList.toggle("busy", running > 0);
    id("m-waiting").textContent = waiting;
    id("m-waiting").classList.toggle("busy", waiting > 0);
    const used = 100 * read(text, "vllm:kv_cache_usage_perc");
    id("m-cache").textContent = (used > 0 && used < 10 ? used.toFixed(1) : used.toFixed(0)) + " %";
    id("m-speed").textContent = speed >= 100 ? speed.toFixed(0) : speed.toFixed(speed > 0 ? 1 : 0);
    draw();
    return running + waiting > 0 || speed > 0;
  }

  async function poll() {
    clearTimeout(timer);
    if (asking || document.hidden) return;
    asking = true;
    let busy = false;
    try {
      const answer = await fetch("metrics", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      busy = show(await answer.text());
      id("strip").classList.remove("away");
    } catch {
      id("strip").classList.add("away");
    }
    asking = false;
    timer = setTimeout(poll, busy ? kBusyMs : kIdleMs);
  }

  draw();
  document.addEventListener("visibilitychange", poll);
  return { poll };
})();
