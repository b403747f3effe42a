// The page: what is known, what happens when something is done, and when to draw.

import * as calls from "./calls.js";
import * as edits from "./edits.js";
import { Stage } from "./stage.js";
import { BlobList, bars, byId, card, element, option, share } from "./panels.js";

const form = byId("question"), tools = byId("tools");
const state = { model: null, scene: null, history: null, drawing: null, first: null, selected: null, ticked: new Set(),
  region: null, all: true, work: null, sizes: new Map(), files: [], sampled: null };
const layout = () => state.history.now;
const wired = () => ({ ...state.scene, layout: layout(), decision: state.model.decision });

function tell(text, wrong = false) {
  byId("alert").hidden = !wrong;
  byId(wrong ? "alert" : "status").textContent = text;
}

/** Run something that may fail; what is wrong is told on the page. */
async function trying(action) {
  try { tell(""); return await action(); }
  catch (error) {
    if (error.name === "AbortError") tell("Stopped.");
    else tell(`${error.message}.`, true);
  }
}

// ---- showing

const stage = new Stage(byId("overlay"), {
  pick: number => { byId("stage").focus({ preventScroll: true }); select(number); },
  move: (number, right, down) => edit(edits.moved(layout(), number, right, down), `drag ${number}`),
  resize: (number, factor) => edit(edits.resized(layout(), number, factor), `drag ${number}`),
  turn: (number, angle) => edit(edits.turned(layout(), number, angle), `drag ${number}`),
  drawn: region => { state.region = region; show(); },
  done: () => { if (state.history) state.history.kind = ""; },
});
const list = new BlobList(byId("blobs"), { pick: number => select(number), tick, hide });

function show() {
  const { model, drawing, selected, ticked } = state;
  const ready = Boolean(drawing) && !state.work, chosen = ready && selected !== null;
  const can = { undo: ready && state.history.past.length, redo: ready && state.history.future.length, reset: ready && layout() !== state.scene?.start,
    outlines: ready, smaller: chosen, larger: chosen, left: chosen, right: chosen, hide: chosen };
  for (const button of tools.querySelectorAll("button")) button.disabled = !can[button.dataset.do];
  byId("empty").hidden = Boolean(drawing);
  for (const id of ["explain", "sample", "fresh", "looks", "decision", "file"]) byId(id).disabled = Boolean(state.work);
  byId("explain").disabled ||= !drawing;
  byId("fresh").disabled ||= !chosen;
  byId("looks").disabled ||= !chosen;
  byId("stop").hidden = !state.work;
  byId("ticked").textContent = `the ticked blobs (${ticked.size || "none"})`;
  if (!drawing) return;
  tools.querySelector("[data-do=hide]").textContent = chosen && edits.isHidden(layout().blobs[selected]) ? "Show" : "Hide";
  const outlines = drawing.outlines.map((outline, number) => edits.outlined(outline, drawing.layout.blobs[number], layout().blobs[number]));
  const seen = form.elements.where.value === "region";
  stage.show({ ...drawing, outlines: state.work ? [] : outlines, selected: state.work ? null : selected, ticked, region: seen ? state.region : null, drawing: seen,
    all: state.all, width: 100 * model.width / model.height, stretch: model.stretch });
  list.show(layout(), drawing.areas, selected, ticked);
}

const picture = base64 => { byId("picture").src = calls.png(base64); byId("picture").hidden = false; };

function drawn(drawing, from) {
  const owners = Uint8Array.from(atob(drawing.owners), letter => letter.charCodeAt(0));
  state.drawing = { ...drawing, layout: from, owners: new Int16Array(owners.buffer) };
  if (!state.work) picture(drawing.picture);
  state.first ??= drawing.said;
  bars(byId("said"), state.model.outputs, drawing.said, state.first);
  questions();
  show();
}

let drawing = false, again = false;
/** Have the scene drawn; while that lasts, further calls are one. */
async function draw() {
  again = true;
  if (drawing) return;
  drawing = true;
  while (again) {
    again = false;
    const begun = performance.now(), from = layout(), { scene } = state;
    try {
      const found = await calls.draw(wired());
      if (scene !== state.scene) continue;
      byId("speed").textContent = `drawn in ${Math.round(performance.now() - begun)} ms`;
      drawn(found, from);
    } catch (error) { tell(error.message, true); }
  }
  drawing = false;
}

function enter({ scene, drawing: found }) {
  Object.assign(state, { scene: { name: scene.name, photo: scene.photo, start: scene.start }, history: new edits.History(scene.start), first: null,
    selected: null, ticked: new Set(), region: null, sizes: new Map() });
  drawn(found, layout());
}

// ---- editing

const name = number => state.model.names[number];

function select(number) {
  state.selected = number;
  if (number !== null) {
    list.focus(number);
    const area = state.drawing.areas[number + 1];
    tell(`${name(number)} selected, ${edits.isHidden(layout().blobs[number]) ? "hidden" : `${share(area)} of the image`}.`);
  }
  show();
}

function edit(changed, kind) {
  state.history.push(changed, kind);
  show();
  draw();
}

function hide(number) {
  const blob = layout().blobs[number], away = edits.isHidden(blob);
  if (!away) state.sizes.set(number, blob.size);
  const size = state.sizes.get(number) ?? Math.max(state.scene.start.blobs[number].size, 8);
  edit(away ? edits.shown(layout(), number, size) : edits.hidden(layout(), number), "");
  tell(`${name(number)} ${away ? "shown" : "hidden"}.`);
}

function tick(number, on = !state.ticked.has(number)) {
  state.ticked[on ? "add" : "delete"](number);
  if (form.elements.where.value !== "blobs" && on) form.elements.where.value = "blobs";
  if (!state.ticked.size && form.elements.where.value === "blobs") form.elements.where.value = "all";
  tell(`${name(number)} ${on ? "may" : "need not"} change.`);
  show();
}

function next(by) {
  const seen = layout().blobs.map((_, number) => number).filter(number => !edits.isHidden(layout().blobs[number]));
  const at = seen.indexOf(state.selected);
  if (seen.length) select(seen[at < 0 ? (by > 0 ? 0 : seen.length - 1) : (at + by + seen.length) % seen.length]);
}

const back = way => { if (state.history?.[way]()) { tell(way === "undo" ? "Undone." : "Redone."); show(); draw(); } };
const withSelected = action => { if (state.selected !== null) action(state.selected); };
const STEP = 0.01, FURTHER = 5, GROWTH = 1.1, TURN = Math.PI / 24;
const actions = {
  undo: () => back("undo"), redo: () => back("redo"),
  reset: () => { edit(state.scene.start, ""); tell("All edits are undone."); },
  smaller: () => withSelected(number => edit(edits.resized(layout(), number, 1 / GROWTH), `size ${number}`)),
  larger: () => withSelected(number => edit(edits.resized(layout(), number, GROWTH), `size ${number}`)),
  left: () => withSelected(number => edit(edits.turned(layout(), number, -TURN), `turn ${number}`)),
  right: () => withSelected(number => edit(edits.turned(layout(), number, TURN), `turn ${number}`)),
  hide: () => withSelected(hide),
  outlines: () => { state.all = !state.all; tools.querySelector("[data-do=outlines]").setAttribute("aria-pressed", state.all); show(); },
};
const KEYS = { "+": "larger", "=": "larger", "-": "smaller", "_": "smaller", "[": "left", "]": "right", h: "hide" };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** A region moves by arrows, and grows to the right and down with Shift. */
function nudge([right, down], further) {
  const [x1, y1, x2, y2] = state.region ?? [0.3, 0.4, 0.7, 0.8], by = 0.02;
  const moved = further ? [x1, y1, x2 + by * right, y2 + by * down] : [x1 + by * right, y1 + by * down, x2 + by * right, y2 + by * down];
  if (moved.every(value => value >= 0 && value <= 1) && moved[2] - moved[0] >= by && moved[3] - moved[1] >= by) state.region = moved;
  show();
}

function pressed(event) {
  if (!state.drawing || state.work) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const inList = event.target !== byId("stage");
  let action = null;
  if (event.ctrlKey || event.metaKey) { if (key === "z") action = () => back(event.shiftKey ? "redo" : "undo"); else if (key === "y") action = () => back("redo"); }
  else if (event.altKey) return;
  else if (ARROWS[key]) {
    const [right, down] = ARROWS[key].map(each => each * STEP * (event.shiftKey ? FURTHER : 1));
    if (form.elements.where.value === "region" && !inList) action = () => nudge(ARROWS[key], event.shiftKey);
    else if (state.selected !== null) action = () => edit(edits.moved(layout(), state.selected, right, down), `move ${state.selected}`);
  } else if (KEYS[key]) action = actions[KEYS[key]];
  else if (key === "n" || key === "p") action = () => next(key === "n" ? 1 : -1);
  else if (key === " " && !inList && state.selected !== null) action = () => tick(state.selected);
  else if (key === "Escape") action = () => select(null);
  if (!action) return;
  event.preventDefault();
  action();
}

// ---- asking

function questions() {
  const { kind, outputs } = state.model, { said } = state.drawing, select = form.elements.attribute, kept = select.value;
  const text = { attributes: (each, value) => `${each} (${value.toFixed(2)}): make it ${value > 0.5 ? `not ${each}` : each}`,
    regression: (each, value) => `${each} (${value.toFixed(2)})`, classes: (each, value) => `${each} should win (${value.toFixed(2)})`, segmentation: (each, value) => `should become ${each} (${share(value)})` }[kind];
  const usual = kind === "classes" ? [option("", "the runner-up")] : [];
  select.replaceChildren(...usual, ...outputs.map((each, number) => option(each, text(each, said[number]))));
  const known = [...select.options].some(each => each.value === kept) && select.dataset.known === outputs.join();
  select.value = known ? kept : kind === "classes" ? "" : outputs.includes("stop") ? "stop" : outputs[0];
  select.dataset.known = outputs.join();
}

function question() {
  const { elements } = form, where = elements.where.value, number = field => elements[field].value === "" ? null : Number(elements[field].value);
  if (where === "blobs" && !state.ticked.size) throw new Error("tick a blob first, or let anything change");
  if (where === "region" && !state.region) throw new Error("draw a region on the image first");
  const regression = state.model.kind === "regression", [least, most] = [number("at_least"), number("at_most")];
  if (regression && least === null && most === null) throw new Error("give the least or the greatest number to reach");
  const range = !regression ? {} : least === null ? { at_most: most } : most === null ? { at_least: least } : { between: [least, most] };
  const keys = [...form.querySelectorAll("[name=keys]:checked")].map(each => each.value);
  if (!keys.length) throw new Error("tick something that may change");
  return { ...range, attribute: elements.attribute.value || null, replaced: state.model.kind === "segmentation" ? elements.replaced.value || null : null, keys,
    blobs: where === "blobs" ? [...state.ticked].sort((one, other) => one - other) : null, region: where === "region" ? state.region : null,
    thing: where === "thing" ? elements.thing.value.trim() : null, few: elements.few.checked, count: number("count"), steps: number("steps"), lambda_prox: number("lambda_prox") };
}

/** Long work: what it shows on its way is seen in the picture. */
async function working(title, work) {
  const from = document.activeElement;
  state.work = new AbortController();
  show();
  if (from === byId("explain")) byId("stop").focus();
  const seen = event => {
    picture(event.picture);
    byId("speed").textContent = event.of ? `step ${Math.min(event.step, event.of)} of ${event.of}` : `step ${event.step}`;
  };
  const found = await trying(() => { tell(`${title} ...`); return work(seen, state.work.signal); });
  state.work = null;
  byId("speed").textContent = "";
  if (state.drawing) picture(state.drawing.picture);
  show();
  if (from === byId("explain")) from.focus();
  return found;
}

async function explain() {
  const asked = await trying(question);
  if (!asked) return;
  const found = await working("Searching", (seen, signal) => calls.explain(wired(), asked, seen, signal));
  if (!found) return;
  state.files.splice(0).forEach(URL.revokeObjectURL);
  const bytes = Uint8Array.from(atob(found.zip), letter => letter.charCodeAt(0));
  const file = URL.createObjectURL(new Blob([bytes], { type: "application/zip" }));
  state.files.push(file);
  const shared = { name: state.scene.name, ratio: state.model.width / state.model.height, outputs: state.model.outputs, file, answer: calls.feedback,
    adopt: changed => { edit(changed, ""); byId("stage").focus(); }, pick: number => { byId("stage").focus(); select(number); } };
  byId("cards").replaceChildren(...found.explanations.map(each => card(each, shared)));
  byId("results").hidden = false;
  tell(`${found.explanations.map(each => `${each.from} to ${each.to}: ${each.verdict}`).join("; ")}. The explanation is below.`);
  byId("results-title").focus({ preventScroll: true });
  byId("results").scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

async function load(file) {
  if (state.work || !file) return;
  const found = await working(`Inverting ${file.name}`, (seen, signal) => calls.photo(file, state.model.decision, seen, signal));
  if (found) { enter(found); tell(`${file.name} is ready to edit.`); }
}

async function sample() {
  const seed = Number(byId("seed").value), typical = Number(byId("truncation").value);
  const found = await trying(() => calls.sample(seed, typical, state.model.decision));
  if (!found) return;
  enter(found);
  state.sampled = `${seed} ${typical}`;
  tell(`Scene ${seed} is ready to edit.`);
}

async function restyle(fresh) {
  const number = state.selected;
  if (fresh) {
    const found = await trying(() => calls.sample(Math.floor(Math.random() * 2 ** 31), 0, state.model.decision));
    if (found) edit(edits.restyled(layout(), number, found.scene.layout.blobs[number].look), "");
    return;
  }
  const { value } = byId("looks");
  if (value !== "") edit(edits.restyled(layout(), number, (value === "own" ? state.scene.start : layout()).blobs[value === "own" ? number : Number(value)].look), "");
  byId("looks").value = "";
}

async function meet(decision) {
  const model = await trying(() => calls.model(decision));
  if (!model) return;
  const known = state.model?.names.join() === model.names.join();
  state.model = model;
  byId("decision").replaceChildren(...model.decisions.map(each => option(each, each, each === model.decision)));
  byId("stage").style.setProperty("--ratio", model.width / model.height);
  form.elements.steps.placeholder = model.steps;
  byId("thing-row").hidden = !model.parser;
  byId("range-row").hidden = model.kind !== "regression";
  byId("replaced-row").hidden = model.kind !== "segmentation";
  form.elements.replaced.replaceChildren(option("", "the most common class"), ...model.outputs.map(each => option(each, each)));
  if (known) return;
  list.build(model.names);
  byId("looks").replaceChildren(option("", "choose a blob"), option("own", "its original"), ...model.names.map((each, number) => option(number, each)));
  byId("keys-of").replaceChildren(...model.keys.map(each => element("label", { className: "choice" }, element("input", { type: "checkbox", name: "keys", value: each, checked: true }), ` ${each}`)));
}

// ---- what the page listens to

tools.addEventListener("click", event => { const button = event.target.closest("button"); if (button) actions[button.dataset.do](); });
for (const id of ["stage", "blobs"]) byId(id).addEventListener("keydown", pressed);
form.addEventListener("submit", event => { event.preventDefault(); if (!state.work) explain(); });
form.addEventListener("change", event => {
  if (event.target.name === "where" && event.target.value === "region") { state.region ??= [0.3, 0.4, 0.7, 0.8]; tell("Drag on the image to draw the region; arrows move it, with Shift they resize it."); }
  show();
});
form.elements.thing.addEventListener("focus", () => { form.elements.where.value = "thing"; show(); });
byId("stop").addEventListener("click", () => state.work?.abort());
byId("sample").addEventListener("click", () => {
  const { value } = byId("seed");
  if (state.sampled === `${value} ${byId("truncation").value}`) byId("seed").value = Number(value) + 1; // again: another one
  sample();
});
byId("fresh").addEventListener("click", () => restyle(true));
byId("looks").addEventListener("change", () => restyle(false));
byId("file").addEventListener("change", event => { load(event.target.files[0]); event.target.value = ""; });
byId("decision").addEventListener("change", async event => { await meet(event.target.value); state.first = null; if (state.drawing) draw(); });
document.addEventListener("dragover", event => { event.preventDefault(); byId("stage").classList.add("over"); });
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => byId("stage").classList.remove("over"));
document.addEventListener("drop", event => { event.preventDefault(); load(event.dataTransfer.files[0]); });

await meet();
if (state.model) await sample();
show();
