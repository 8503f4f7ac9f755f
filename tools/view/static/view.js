// The page. What comes from a data set is put in as text, never as markup.

import { Frames } from "/frames.js";

const ROWS = 24;
const $ = (id) => document.getElementById(id);
const main = $("main");
let set = null;
let frames = null;   // of the sample that is shown
let steps = {};      // what j and k do here
let turn = 0;        // of the page: an answer that comes after another page was asked for is not shown

function make(name, attributes = {}, ...parts) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...parts.flat().filter((part) => part != null));
  return element;
}

async function ask(address) {
  const response = await fetch(address);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? `the server says ${response.status}`);
  return answer;
}

// JSON for people: lists of plain values on one line.
const spellTree = (tree) => JSON.stringify(tree, null, 1).replace(/\[\s+((?:[^[\]{}"]|"(?:[^"\\]|\\.)*")*?)\s+\]/g, (_, inside) => `[${inside.replace(/\s*\n\s*/g, " ")}]`);

const spell = (number) => number.toLocaleString("en");

function spellBytes(count) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (count < 1000) return `${unit === "B" ? count : count.toFixed(1)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}

// Where we are: #/PAGE?NAME=VALUE&...
function here() {
  const [path, query = ""] = location.hash.slice(1).split("?");
  return { parts: path.split("/").filter(Boolean), query: new URLSearchParams(query) };
}

function address(path, query = {}) {
  const kept = Object.entries(query).filter(([, value]) => value !== "" && value != null && value !== 0);
  const text = new URLSearchParams(kept).toString();
  return `#/${path}${text ? `?${text}` : ""}`;
}

function wanted() {
  const { query } = here();
  return { key: query.get("key") ?? "", label: query.get("label") ?? "", offset: Number(query.get("offset")) || 0 };
}

function pager(total, offset, path, query) {
  const pages = Math.max(1, Math.ceil(total / ROWS));
  const page = Math.floor(offset / ROWS);
  const go = (to) => { location.hash = address(path, { ...query, offset: to * ROWS }); };
  steps = { next: page + 1 < pages && (() => go(page + 1)), previous: page > 0 && (() => go(page - 1)) };
  return [
    make("button", { type: "button", id: "previous", disabled: page === 0, onclick: () => go(page - 1) }, "previous"),
    make("span", { class: "small" }, `page ${spell(page + 1)} of ${spell(pages)}`),
    make("button", { type: "button", id: "next", disabled: page + 1 >= pages, onclick: () => go(page + 1) }, "next"),
  ];
}

async function showList() {
  const query = wanted();
  const found = await ask(`/api/samples?${new URLSearchParams({ ...query, limit: ROWS })}`);
  const unread = query.label !== "" && found.num_read < set.num_samples;
  const cards = found.rows.map((row) => make(
    "a", { class: "card", href: address(`sample/${row.number}`, query) },
    make("img", {
      class: "shot", src: `/thumbnail/${row.number}`, alt: "", loading: "lazy",
      onerror: (event) => event.target.replaceWith(make("span", { class: "shot" })),
    }),
    make("span", { class: "words" }, row.key, make("span", { class: "faint" }, row.label == null ? `#${row.number}` : String(row.label))),
  ));
  return [
    make("div", { class: "bar" },
      make("span", { id: "total" }, `${spell(found.total)} ${found.total === 1 ? "sample" : "samples"}`),
      unread ? make("span", { class: "faint small", id: "unread" }, `labels of ${spell(found.num_read)} of ${spell(set.num_samples)} read so far`) : null,
      pager(found.total, query.offset, "", query)),
    cards.length ? make("div", { class: "cards" }, cards) : make("p", {}, "Nothing is found."),
  ];
}

async function showSample(number) {
  const sample = await ask(`/api/sample/${number}`);
  const query = wanted();
  const go = (to) => { location.hash = address(`sample/${to}`, query); };
  steps = {
    next: number + 1 < set.num_samples && (() => go(number + 1)),
    previous: number > 0 && (() => go(number - 1)),
  };
  const seen = sample.num_frames ? player(sample) : make("p", { class: "faint" }, "No frames to be seen.");
  const said = [
    ...sample.captions.map((caption) => make("p", { class: "caption" }, caption)),
    ...sample.messages.map((one) => make("div", { class: `message ${one.role === "assistant" ? "assistant" : ""}` }, make("span", { class: "faint" }, one.role), one.content)),
  ];
  const fields = sample.fields.map((field) => make("tr", {},
    make("th", { scope: "row" }, field.name), make("td", { class: "words" }, field.kind),
    make("td", { class: "number" }, field.count == null ? "" : spell(field.count)),
    make("td", { class: "number" }, spellBytes(field.num_bytes))));
  const head = make("tr", {}, ["field", "kind"].map((name) => make("th", { scope: "col" }, name)), ["rows", "size"].map((name) => make("th", { scope: "col", class: "number" }, name)));
  return [
    make("div", { class: "bar" },
      make("a", { href: address("", query), id: "back" }, "all samples"),
      make("button", { type: "button", id: "previous", disabled: !steps.previous, onclick: () => steps.previous() }, "previous"),
      make("button", { type: "button", id: "next", disabled: !steps.next, onclick: () => steps.next() }, "next"),
      make("span", { class: "faint small" }, `#${spell(number)} of ${spell(set.num_samples)}`)),
    make("div", { class: "sample" },
      make("div", {}, seen),
      make("div", {}, make("h1", { id: "sample-key" }, sample.key), said,
        make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, fields))),
        make("details", { open: true }, make("summary", {}, "what is kept about it"), make("pre", { id: "kept" }, spellTree(sample.about))))),
  ];
}

function player(sample) {
  const canvas = make("canvas", { id: "frames", role: "img", "aria-label": `frames of ${sample.key}` });
  const slider = make("input", { type: "range", id: "place", min: 0, max: sample.num_frames - 1, value: 0, "aria-label": "frame", oninput: () => { frames.stop(); frames.show(Number(slider.value)); } });
  const play = make("button", { type: "button", id: "play", disabled: sample.num_frames < 2, onclick: () => (frames.playing ? frames.stop() : frames.play()) }, "play");
  const time = make("span", { class: "small", id: "time" });
  const problem = make("p", { class: "error", hidden: true });
  const mine = frames = new Frames(canvas, sample, () => {
    const seconds = sample.times?.[mine.place];
    time.textContent = `${mine.place + 1} of ${sample.num_frames}${seconds == null ? "" : `, ${seconds.toFixed(2)} s`}`;
    slider.value = mine.place;
    play.textContent = mine.playing ? "stop" : "play";
    if (canvas.dataset.state === "missing" && problem.hidden) {
      ask(`/frame/${sample.number}/${mine.place}`).catch((error) => { problem.hidden = false; problem.textContent = error.message; });
    }
  });
  const toggles = [];
  const toggle = (id, words, turned, more = []) => {
    const button = make("button", { type: "button", id, "aria-pressed": "false", onclick: async () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      try { await turned(on); } catch (error) { problem.hidden = false; problem.textContent = error.message; }
      mine.show(mine.place);
    } }, words);
    toggles.push(button, ...more);
    return button;
  };
  if (set.has_student_mask) {
    const read = async () => { mine.hidden = await ask(`/api/mask/${sample.number}?epoch=${Number(epoch.value) || 0}`); };
    const epoch = make("input", { type: "number", id: "epoch", min: 0, value: 0, "aria-label": "epoch of the mask", onchange: async () => { if (mine.hidden) { await read(); mine.show(mine.place); } } });
    toggle("mask", "what the student sees", async (on) => { mine.hidden = null; if (on) await read(); }, [make("label", { class: "small" }, "epoch ", epoch)]);
  }
  if (sample.has_masks) {
    const button = toggle("objects", "boxes and masks", async (on) => { mine.objects = on ? await ask(`/api/objects/${sample.number}`) : null; });
    queueMicrotask(() => button.click());
  }
  mine.show(0);
  return [canvas, make("div", { class: "controls" }, play, slider, time), make("div", { class: "controls" }, toggles), problem];
}

async function showFailures() {
  const { query } = here();
  const [reason, offset] = [query.get("reason") ?? "", Number(query.get("offset")) || 0];
  const found = await ask(`/api/failures?${new URLSearchParams({ reason, offset, limit: ROWS })}`);
  const reasons = Object.entries(found.reasons).sort((a, b) => b[1] - a[1]);
  const choice = make("select", { id: "reason", "aria-label": "reason", onchange: () => { location.hash = address("failures", { reason: choice.value }); } },
    make("option", { value: "" }, "every reason"),
    reasons.map(([name, count]) => make("option", { value: name, selected: name === reason }, `${name} (${spell(count)})`)));
  const rows = found.rows.map((one) => make("tr", {},
    make("td", { class: "words" }, one.path), make("td", {}, make("span", { class: "badge" }, one.reason)), make("td", { class: "words" }, one.message)));
  return [
    make("h1", {}, "What could not be built"),
    make("div", { class: "bar" }, make("span", { id: "total" }, `${spell(found.total)} ${found.total === 1 ? "item" : "items"}`), reasons.length ? choice : null, pager(found.total, offset, "failures", { reason })),
    rows.length ? make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ["item", "reason", "why"].map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, rows))) : make("p", {}, "Nothing failed."),
  ];
}

async function showAbout() {
  const labels = await ask("/api/labels");
  const facts = [["split", set.split], ["samples", spell(set.num_samples)], ["shards", spell(set.num_shards)], ["bytes", spellBytes(set.num_bytes)], ["digest", set.digest]];
  const counts = Object.entries(labels.counts).sort((a, b) => b[1] - a[1]);
  steps = {};
  return [
    make("h1", {}, set.name),
    make("dl", {}, facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    make("h2", {}, "Fields"),
    make("dl", {}, set.fields.flatMap((field) => [make("dt", {}, field.name), make("dd", {}, field.kind)])),
    counts.length ? make("h2", {}, `Labels${labels.num_read < set.num_samples ? ` (of ${spell(labels.num_read)} samples read so far)` : ""}`) : null,
    make("div", { class: "scroll" }, make("table", {}, make("tbody", {}, counts.map(([label, count]) => make("tr", {},
      make("td", {}, make("a", { href: address("", { label }) }, set.label_names[label] ?? label)), make("td", { class: "number" }, spell(count))))))),
    make("h2", {}, "Where it comes from"),
    make("pre", {}, spellTree(set.provenance)),
  ];
}

async function render() {
  const mine = ++turn;
  frames?.stop();
  frames = null;
  steps = {};
  const { parts } = here();
  const { key, label } = wanted();
  if (document.activeElement !== $("key")) $("key").value = key;
  $("label").value = label;
  let content;
  try {
    if (parts[0] === "sample" && /^\d+$/.test(parts[1] ?? "")) content = await showSample(Number(parts[1]));
    else if (parts[0] === "failures") content = await showFailures();
    else if (parts[0] === "about") content = await showAbout();
    else content = await showList();
  } catch (error) {
    content = [make("p", { class: "error", role: "alert" }, error.message), make("p", {}, make("a", { href: "#/" }, "all samples"))];
  }
  if (mine !== turn) return;
  main.replaceChildren(...content.flat().filter((part) => part != null));
  main.dataset.turn = String(mine);
}

function search() {
  location.hash = address("", { key: $("key").value.trim(), label: $("label").value });
}

const KEYS = {
  "/": () => $("key").focus(),
  j: () => steps.next && steps.next(),
  k: () => steps.previous && steps.previous(),
  " ": () => frames && (frames.playing ? frames.stop() : frames.play()),
  ArrowRight: () => frames && (frames.stop(), frames.show(frames.place + 1)),
  ArrowLeft: () => frames && (frames.stop(), frames.show(frames.place - 1)),
  m: () => $("mask")?.click(),
  o: () => $("objects")?.click(),
  Escape: () => { location.hash = address("", wanted()); },
  "?": () => $("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=range]), select, textarea") || $("help").open;
  if (event.key === "Escape" && event.target === $("key")) { $("key").blur(); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
  if (event.key === " " && event.target.matches("button, a, summary")) return;
  event.preventDefault();
  KEYS[event.key]();
});
$("search").addEventListener("submit", (event) => { event.preventDefault(); search(); });
$("label").addEventListener("change", search);
$("help-button").addEventListener("click", () => $("help").showModal());
window.addEventListener("hashchange", render);

set = await ask("/api/set");
document.title = `${set.name}: reelshard view`;
$("name").textContent = set.name;
$("label").append(...set.label_names.map((name, label) => make("option", { value: label }, name)));
$("label").hidden = !set.label_names.length;
$("to-failures").textContent = `failures (${spell(Object.values(set.failures).reduce((sum, count) => sum + count, 0))})`;
await render();
