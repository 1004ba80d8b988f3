// Markdown as models write it, straight into DOM nodes: every piece of text goes through
// createTextNode, so nothing a model says can become markup. Blocks: fenced code, headings, lists,
// quotes, tables, rules, paragraphs. Inline: code, strong, emphasis, deleted, http(s) links.
// Nesting and look-ahead are bounded. To add a block: a branch in parseBlock.
"use strict";

const kMaxDepth = 6;

function element(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", "#i-" + name);
  svg.append(use);
  return svg;
}

function iconButton(name, label, action) {
  const button = element("button", "round", icon(name));
  button.type = "button";
  button.title = label;
  button.setAttribute("aria-label", label);
  button.addEventListener("click", () => action(button));
  return button;
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // no permission, or not a secure origin
    const area = element("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.replaceChildren(icon("check"));
  setTimeout(() => button.replaceChildren(icon("copy")), 1200);
}

// One alternative per kind of inline markup; each is linear by construction (no nested repeats).
const kInline = new RegExp([
  "(`+)([^`]|[^`][^]{0,2000}?[^`])\\1(?!`)",                           // 1,2 code
  "\\*\\*([^*\\s](?:(?:[^*]|\\*(?!\\*))*[^*\\s])?)\\*\\*",              // 3 strong
  "__([^_\\s](?:[^_]*[^_\\s])?)__(?!\\w)",                             // 4 strong
  "\\*([^*\\s](?:[^*]*[^*\\s])?)\\*",                                  // 5 emphasis
  "(?<!\\w)_([^_\\s](?:[^_]*[^_\\s])?)_(?!\\w)",                       // 6 emphasis
  "~~([^~]+)~~",                                                       // 7 deleted
  "!?\\[([^\\[\\]\\n]{1,300})\\]\\(<?([^\\s<>()]{1,1000})>?(?:\\s+\"[^\"\\n]{0,200}\")?\\)",  // 8,9 link
  "(https?://[^\\s<>\"'`]{1,2000}[^\\s<>\"'`.,;:!?)\\]])",             // 10 bare link
].join("|"), "g");

function link(target, ...children) {
  let url;
  try {
    url = new URL(target);
  } catch {
    return element("span", "", ...children);
  }
  if (url.protocol !== "https:" && url.protocol !== "http:") return element("span", "", ...children);
  const anchor = element("a", "", ...children);
  anchor.href = url.href;
  anchor.target = "_blank";
  anchor.rel = "noopener noreferrer nofollow";
  anchor.title = url.href;
  return anchor;
}

function inline(text, depth = 0) {
  if (depth > kMaxDepth) return [document.createTextNode(text)];
  const out = [];
  let last = 0;
  for (const m of text.matchAll(kInline)) {
    if (m.index > last) out.push(document.createTextNode(text.slice(last, m.index)));
    last = m.index + m[0].length;
    const inner = (s) => inline(s, depth + 1);
    if (m[1]) out.push(element("code", "", m[2].trim() === "" ? m[2] : m[2].replace(/^ (.*) $/s, "$1")));
    else if (m[3] ?? m[4]) out.push(element("strong", "", ...inner(m[3] ?? m[4])));
    else if (m[5] ?? m[6]) out.push(element("em", "", ...inner(m[5] ?? m[6])));
    else if (m[7]) out.push(element("del", "", ...inner(m[7])));
    else if (m[9]) out.push(link(m[9], ...inner(m[8])));
    else out.push(link(m[10], m[10]));
  }
  if (last < text.length) out.push(document.createTextNode(text.slice(last)));
  return out;
}

// Inline text of several lines: a line break in the source stays one.
function lines(text) {
  const out = [];
  for (const [i, line] of text.split("\n").entries()) {
    if (i > 0) out.push(element("br"));
    out.push(...inline(line));
  }
  return out;
}

const kFence = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)/;
const kItem = /^( *)([-*+]|\d{1,9}[.)])(?:\s+(.*)|$)/;
const kRule = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const kTableRule = /^ *\|?(?: *:?-+:? *\|)+ *:?-*:? *\|? *$/;

// Cuts text into top-level blocks, each a string. All but the last are final while text grows.
function splitBlocks(text) {
  const blocks = [];
  let current = [];
  let fence = null;
  const flush = () => {
    if (current.length > 0) blocks.push(current.join("\n"));
    current = [];
  };
  for (const line of text.split("\n")) {
    if (fence) {
      current.push(line);
      const end = line.match(kFence);
      if (end && end[1][0] === fence[0] && end[1].length >= fence.length && !end[2]) {
        fence = null;
        flush();
      }
      continue;
    }
    const start = line.match(kFence);
    const inItem = current.length > 0 && (kItem.test(current[0]) || /^ {2,}/.test(line));
    if (start && !(inItem && /^ {2,}/.test(line))) {
      flush();
      fence = start[1];
      current.push(line);
    } else if (line.trim() === "") {
      // A blank line ends a block, except inside a list that goes on.
      if (current.length > 0 && kItem.test(current[0])) current.push("");
      else flush();
    } else if (current.length > 0 && current.at(-1) === "" && !kItem.test(line) && !/^ {2,}/.test(line)) {
      flush();
      current.push(line);
    } else if (/^ {0,3}#{1,6}\s/.test(line) || (kRule.test(line) && current.length === 0)) {
      flush();
      blocks.push(line);
    } else if (current.length > 0 && kItem.test(line) && !kItem.test(current[0]) && !/^ *>/.test(current[0])) {
      flush();
      current.push(line);
    } else {
      current.push(line);
    }
  }
  flush();
  return blocks;
}

function codeBlock(source) {
  const all = source.split("\n");
  const [, fence, language] = all[0].match(kFence);
  const close = new RegExp("^ {0,3}" + fence[0] + "{" + fence.length + ",} *$");
  const body = all.slice(1, close.test(all.at(-1)) && all.length > 1 ? -1 : undefined).join("\n");
  const copy = iconButton("copy", "Copy code", (button) => copyText(body, button));
  return element("div", "code",
    element("div", "bar", element("span", "", language || "text"), copy),
    element("pre", "", element("code", "", ...highlight(body, language.toLowerCase()))));
}

// Colours that fit most languages: comments, strings, numbers and common words. Not a parser; what it
// does not know stays plain.
const kHashComments = new Set(["python", "py", "sh", "bash", "shell", "zsh", "ruby", "rb", "yaml", "yml", "toml", "r", "perl", "make", "cmake", "dockerfile"]);
const kPlain = new Set(["", "text", "txt", "plain", "markdown", "md", "output", "console", "diff"]);
const kWords = "and as async await break case catch class const constexpr continue def default defer del delete do elif else enum except export extends extern false finally fn for from func function global if impl import in include interface is lambda let match mod move mut namespace new nil none not null or override package pass private protected pub public raise ref return self select static struct super switch template this throw trait true try type typedef typename union unless until use using var virtual void volatile when where while with yield None True False int float double bool char long short unsigned signed string auto SELECT FROM WHERE JOIN ON AS AND OR NOT NULL GROUP ORDER BY INSERT INTO VALUES UPDATE SET DELETE CREATE TABLE LIMIT";
const kWordSet = new Set(kWords.split(" "));
const kLiterals = "|(\"(?:[^\"\\\\\\n]|\\\\.)*\"?|'(?:[^'\\\\\\n]|\\\\.)*'?|`(?:[^`\\\\]|\\\\[^])*`?)|\\b(\\d[\\w.]*)|([A-Za-z_]\\w*)";
const kCTokens = new RegExp("(//[^\\n]*|/\\*[^]*?(?:\\*/|$))" + kLiterals, "g");
const kHashTokens = new RegExp("(#[^\\n]*)" + kLiterals, "g");
const kDashTokens = new RegExp("(--[^\\n]*)" + kLiterals, "g");

function highlight(code, language) {
  if (kPlain.has(language) || code.length > 100000) return [code];
  const tokens = kHashComments.has(language) ? kHashTokens : language === "sql" || language === "lua" ? kDashTokens : kCTokens;
  const out = [];
  let last = 0;
  for (const m of code.matchAll(tokens)) {
    const kind = m[1] ? "c" : m[2] ? "s" : m[3] ? "n" : kWordSet.has(m[4]) || m[4]?.endsWith("_t") ? "k" : "";
    if (!kind) continue;
    if (m.index > last) out.push(code.slice(last, m.index));
    out.push(element("span", kind, m[0]));
    last = m.index + m[0].length;
  }
  out.push(code.slice(last));
  return out;
}

function list(source, depth) {
  const ordered = /^ *\d/.test(source);
  const out = element(ordered ? "ol" : "ul");
  if (ordered) out.start = Number(source.match(/\d+/)[0]);
  const indent = source.match(kItem)[1].length;
  let item = null;
  const flush = () => {
    if (item) out.append(element("li", "", ...blocks(item.join("\n").trimEnd(), depth + 1, true)));
  };
  for (const line of source.split("\n")) {
    const m = line.match(kItem);
    if (m && m[1].length <= indent + 1) {
      flush();
      item = [m[3] ?? ""];
    } else {
      item.push(line.replace(new RegExp("^ {0," + (indent + 4) + "}"), (s) =>
        s.slice(0, Math.max(0, s.length - indent - (ordered ? 3 : 2)))));
    }
  }
  flush();
  return out;
}

function table(rows) {
  const cells = (row) => row.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((c) => c.trim().replaceAll("\\|", "|"));
  const sides = cells(rows[1]).map((c) => (c.endsWith(":") ? (c.startsWith(":") ? "center" : "right") : ""));
  const line = (row, tag) => element("tr", "", ...cells(row).map((c, i) => element(tag, sides[i], ...inline(c))));
  return element("div", "table", element("table", "",
    element("thead", "", line(rows[0], "th")),
    element("tbody", "", ...rows.slice(2).map((row) => line(row, "td")))));
}

function parseBlock(source, depth, tight) {
  if (depth > kMaxDepth) return element("p", "", source);
  const heading = source.match(/^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$/);
  if (heading) return element("h" + Math.min(4, heading[1].length), "", ...inline(heading[2]));
  if (kFence.test(source)) return codeBlock(source);
  if (kRule.test(source)) return element("hr");
  if (kItem.test(source)) return list(source, depth);
  if (/^ {0,3}>/.test(source))
    return element("blockquote", "", ...blocks(source.replace(/^ {0,3}> ?/gm, ""), depth + 1));
  const rows = source.split("\n");
  if (rows.length > 1 && rows[0].includes("|") && kTableRule.test(rows[1])) return table(rows);
  return tight ? element("span", "", ...lines(source)) : element("p", "", ...lines(source));
}

function blocks(text, depth = 0, tight = false) {
  return splitBlocks(text).map((source) => parseBlock(source, depth, tight));
}

// Brings `node` up to date with growing text: only blocks that changed are built again.
class MarkdownView {
  constructor(node) {
    this.node = node;
    this.sources = [];
  }
  update(text) {
    const sources = splitBlocks(text);
    let same = 0;
    while (same < sources.length && sources[same] === this.sources[same]) ++same;
    while (this.node.childNodes.length > same) this.node.lastChild.remove();
    for (const source of sources.slice(same)) this.node.append(parseBlock(source, 0, false));
    this.sources = sources;
  }
}
