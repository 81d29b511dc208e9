"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const PAGE_ROWS = 50;
const at = (id) => document.getElementById(id);
const make = (tag, name, text) => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
};

// An utterance is {id, speaker, s: seconds, n: words, S, D, I, t: words, c: confidences, a: audio}. In t a
// text is a word that was recognised, [said, heard] an edit with null on the side that lacks a word.
const utterances = DATA.utterances;
for (const [place, u] of utterances.entries()) {
  u.place = place;
  u.errors = u.S + u.D + u.I;
  u.wer = u.errors / Math.max(u.n, 1);
  u.sure = u.c && u.c.length ? u.c.reduce((a, b) => a + b) / u.c.length : null;
  const words = u.t.map((w) => typeof w === "string" ? w : w[0] === null ? "+" + w[1] : w[1] === null ? "−" + w[0] : w[0] + "→" + w[1]);
  u.found = [u.id, u.speaker ? "speaker:" + u.speaker.split(/\s+/).join("_") : "", ...words, ""].join("\u0001").toLowerCase();
}

const has = (key) => utterances.some((u) => u[key] !== null && u[key] !== undefined);
const percent = (x) => (100 * x).toFixed(1) + " %";
const COLUMNS = [
  { key: "a", title: "", sortable: false, show: has("a"), cell: playCell },
  { key: "id", title: "Utterance", show: true, cell: (u) => make("td", "id", u.id) },
  { key: "speaker", title: "Speaker", show: has("speaker"), cell: (u) => make("td", "id", u.speaker ?? "") },
  { key: "wer", title: "WER", number: true, show: true, cell: (u) => number(percent(u.wer), u.errors) },
  { key: "errors", title: "Errors", number: true, show: true, cell: (u) => number(u.errors) },
  { key: "S", title: "S", number: true, show: true, cell: (u) => number(u.S) },
  { key: "D", title: "D", number: true, show: true, cell: (u) => number(u.D) },
  { key: "I", title: "I", number: true, show: true, cell: (u) => number(u.I) },
  { key: "n", title: "Words", number: true, show: true, cell: (u) => number(u.n) },
  { key: "s", title: "Seconds", number: true, show: has("s"), cell: (u) => number(u.s === null ? "" : u.s.toFixed(1), u.s) },
  { key: "sure", title: "Conf.", number: true, show: utterances.some((u) => u.sure !== null), cell: (u) => number(u.sure === null ? "" : u.sure.toFixed(2), 1) },
  { key: "place", title: "Said and heard", show: true, cell: textCell },
].filter((column) => column.show);

const state = { filter: "wrong", search: "", key: "errors", down: true, shown: PAGE_ROWS };

function number(text, weight = text) {
  return make("td", weight ? "num" : "num zero", text);
}

function textCell(u) {
  const cell = make("td", "text");
  let heard = 0;
  for (const word of u.t) {
    let element;
    if (typeof word === "string") {
      element = confident(u, heard++, word);
    } else {
      const [said, got] = word;
      element = make("span", said === null ? "ins" : got === null ? "del" : "sub");
      if (said !== null) element.append(make(got === null ? "s" : "i", "", said));
      if (said !== null && got !== null) element.append("→");
      if (got !== null) {
        element.append(make("b", "", got));
        if (u.c) element.title = "confidence " + u.c[heard].toFixed(2);
        heard += 1;
      }
    }
    cell.append(element, " ");
  }
  return cell;
}

function confident(u, heard, word) {
  if (!u.c || u.c[heard] >= 0.8) return document.createTextNode(word);
  const element = make("span", "unsure", word);
  element.title = "confidence " + u.c[heard].toFixed(2);
  return element;
}

const player = at("player");
let playing = null;
function playCell(u) {
  const cell = make("td");
  if (!u.a) return cell;
  const button = make("button", "play", "▶");
  button.type = "button";
  button.setAttribute("aria-label", "Play " + u.id);
  button.addEventListener("click", () => {
    const same = playing === button;
    stop();
    if (same) return;
    playing = button;
    button.classList.add("on");
    button.textContent = "■";
    player.src = u.a;
    player.play().catch(() => {});
  });
  cell.append(button);
  return cell;
}
function stop() {
  player.pause();
  if (playing) {
    playing.classList.remove("on");
    playing.textContent = "▶";
  }
  playing = null;
}
player.addEventListener("pause", () => { if (player.paused) stop(); });  // a part of a recording never is "ended"
player.addEventListener("error", () => {
  if (!playing) return;
  playing.classList.add("lost");
  playing.title = "The recording could not be played: " + decodeURI(player.getAttribute("src"));
  stop();
});

const KEEPS = { all: () => true, wrong: (u) => u.errors, sub: (u) => u.S, del: (u) => u.D, ins: (u) => u.I };
function chosen() {
  const wanted = state.search.toLowerCase().split(/\s+/).filter(Boolean).map((w) => w.replace("->", "→"));
  const whole = (w) => /^[−+]./.test(w) || w.includes("→") || w.startsWith("speaker:");
  const list = utterances.filter((u) => KEEPS[state.filter](u) &&
    wanted.every((w) => u.found.includes(whole(w) ? "\u0001" + w + "\u0001" : w)));
  const key = state.key, sign = state.down ? -1 : 1;
  return list.sort((a, b) => {
    const x = a[key], y = b[key];
    if (x === y) return key === "errors" && a.wer !== b.wer ? sign * (a.wer - b.wer) : a.place - b.place;
    if (x === null || x === undefined) return 1;
    if (y === null || y === undefined) return -1;
    return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true }));
  });
}

function render() {
  stop();
  const list = chosen();
  const rows = document.createDocumentFragment();
  for (const u of list.slice(0, state.shown)) {
    const row = make("tr");
    row.append(...COLUMNS.map((column) => column.cell(u)));
    rows.append(row);
  }
  at("rows").replaceChildren(rows);
  at("count").textContent = list.length.toLocaleString("en") + " of " + utterances.length.toLocaleString("en");
  at("more").hidden = list.length <= state.shown;
  for (const head of at("heads").children) {
    if (head.dataset.key === state.key) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  for (const chip of document.querySelectorAll("[data-filter]")) chip.classList.toggle("on", chip.dataset.filter === state.filter);
}

function set(change) {
  Object.assign(state, { shown: PAGE_ROWS }, change);
  if (at("search").value !== state.search) at("search").value = state.search;
  render();
}

for (const column of COLUMNS) {
  const head = make("th", column.number ? "num" : "", column.title);
  head.dataset.key = column.key;
  if (column.sortable !== false) {
    const sort = () => set({ key: column.key, down: state.key === column.key ? !state.down : !!column.number });
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  }
  at("heads").append(head);
}
for (const chip of document.querySelectorAll("[data-filter]")) chip.addEventListener("click", () => set({ filter: chip.dataset.filter }));
for (const link of document.querySelectorAll("[data-find]")) {
  link.addEventListener("click", () => {
    set({ search: link.dataset.find, filter: "wrong" });
    at("utterances").scrollIntoView({ behavior: "smooth" });
  });
}
at("search").addEventListener("input", (event) => set({ search: event.target.value }));
at("more").addEventListener("click", () => { state.shown += 4 * PAGE_ROWS; render(); });
at("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
if (!utterances.some((u) => u.errors)) state.filter = "all";
render();
