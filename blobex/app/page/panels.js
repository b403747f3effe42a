// Lists, bars and results beside and below the image.

import { png } from "./calls.js";
import { isHidden } from "./edits.js";
import { colour } from "./stage.js";

export const byId = id => document.getElementById(id);

/** An element with properties and children; texts become text and nothing else. */
export function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key.startsWith("data-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

export const option = (value, text, selected = false) => element("option", { value, textContent: text, selected });
export const share = value => value >= 0.0995 ? `${Math.round(100 * value)}%` : value >= 0.001 ? `${(100 * value).toFixed(1)}%` : "0%";

/** The list of blobs; rows that stay keep their elements, so that focus and scrolling stay, too. */
export class BlobList {
  constructor(list, told) { Object.assign(this, { list, told, rows: [] }); }

  build(names) {
    this.rows = names.map((name, number) => {
      const swatch = element("i", { className: "swatch" });
      swatch.style.background = colour(number);
      const area = element("small"), select = element("button", { type: "button", className: "name" }, swatch, element("span", { textContent: name }), area);
      const tick = element("input", { type: "checkbox", "aria-label": `${name} may change` });
      const hide = element("button", { type: "button", className: "eye" });
      select.addEventListener("click", () => this.told.pick(number));
      tick.addEventListener("change", () => this.told.tick(number, tick.checked));
      hide.addEventListener("click", () => this.told.hide(number));
      return { name, row: element("li", {}, tick, select, hide), select, tick, hide, area };
    });
    this.list.replaceChildren(...this.rows.map(each => each.row));
  }

  show(layout, areas, selected, ticked) {
    this.rows.forEach(({ name, row, select, tick, hide, area }, number) => {
      const away = isHidden(layout.blobs[number]);
      row.classList.toggle("away", away || areas[number + 1] < 0.002);
      row.classList.toggle("chosen", number === selected);
      select.setAttribute("aria-pressed", number === selected);
      tick.checked = ticked.has(number);
      area.textContent = away ? "hidden" : share(areas[number + 1]);
      hide.textContent = away ? "Show" : "Hide";
      hide.setAttribute("aria-label", `${away ? "Show" : "Hide"} ${name}`);
    });
  }

  focus(number) { this.rows[number]?.row.scrollIntoView({ block: "nearest" }); }
}

/** A score, which is null where the model gave no number. */
function shown(score) { return score === null ? "no number" : score.toFixed(2); }

/** A bar for each output, with a mark where it stood at first. */
export function bars(list, outputs, said, first) {
  list.replaceChildren(...outputs.map((name, number) => {
    const bar = element("span", { className: "bar" }), value = said[number];
    bar.style.setProperty("--share", Math.min(1, Math.max(0, value)));
    bar.style.setProperty("--was", Math.min(1, Math.max(0, first[number])));
    const changed = Math.abs(value - first[number]) >= 0.005;
    const was = element("small", { textContent: changed ? `was ${shown(first[number])}` : "" });
    return element("li", { className: value > 0.5 ? "yes" : "" }, element("span", { textContent: name }), bar, element("b", { textContent: shown(value) }), was);
  }));
}

/** Before and after, one over the other; where they part is an ordinary slider. */
function compared(before, after, ratio, name) {
  const slider = element("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Share of the image that shows the query" });
  const box = element("div", { className: "compare" },
    element("img", { src: png(after), alt: `After: ${name}, counterfactual` }),
    element("img", { src: png(before), alt: `Before: ${name}`, className: "before" }),
    element("span", { className: "tag left", textContent: "before", "aria-hidden": "true" }),
    element("span", { className: "tag right", textContent: "after", "aria-hidden": "true" }), element("i"), slider);
  box.style.setProperty("--ratio", ratio);
  const set = () => box.style.setProperty("--at", `${slider.value}%`);
  slider.addEventListener("input", set);
  set();
  return box;
}

/** The score after each change is undone, one after the other; blobs that the decision needs are marked. */
function waterfall(found) {
  let before = found.score_after;
  const scores = [before, ...found.steps.map(each => each.score)];
  const bottom = Math.min(0, ...scores), span = Math.max(1, ...scores) - bottom;
  const rows = found.steps.map(each => {
    const bar = element("span", { className: found.needed.includes(each.blob) ? "step needed" : "step" });
    bar.style.setProperty("--low", (Math.min(before, each.score) - bottom) / span);
    bar.style.setProperty("--high", (Math.max(before, each.score) - bottom) / span);
    before = each.score;
    const words = found.needed.includes(each.blob) ? "needed" : "not needed";
    return element("li", {}, element("span", { textContent: `without ${each.name}` }), bar, element("b", { textContent: shown(each.score) }), element("small", { textContent: words }));
  });
  return element("ul", { className: "bars steps", "aria-label": `${found.attribute} after each change is undone` }, ...rows);
}

/** Three buttons that say whether the decision about the changed image is right; `answer` saves what was said. */
function judged(found, name, answer) {
  if (found.decided === null) return [];
  const told = element("small", { "aria-live": "polite" });
  const buttons = ["true", "false", "not sensible"].map(text => element("button", { type: "button", textContent: text, "aria-pressed": "false" }));
  for (const button of buttons) button.onclick = async () => {
    try {
      const { file, answers } = await answer({ png: found.after, image: name, output: found.attribute, decided: found.decided, answer: button.textContent });
      for (const each of buttons) each.setAttribute("aria-pressed", each === button);
      told.textContent = `${answers} in ${file}`;
    } catch (error) { told.textContent = error.message; }
  };
  const asked = element("p", { className: "hint", textContent: `After the change, the model says ${found.decided ? "" : "not "}${found.attribute}. Is that right?` });
  return [asked, element("div", { className: "row", role: "group", "aria-label": "Is the decision about the changed image right?" }, ...buttons, told)];
}

/** The card of one explanation. `adopt` takes its blobs over, and `file` is what to download. */
export function card(found, { name, ratio, outputs, file, adopt, pick, answer }) {
  const good = found.flipped;
  const verdict = element("p", { className: `verdict ${good ? "good" : "bad"}` }, `${found.from} → ${found.to}: ${found.verdict}`);
  const scores = element("p", { className: "scores" }, `${found.attribute} ${shown(found.score_before)} → ${shown(found.score_after)}`);
  const told = element("p", { className: "sentence", textContent: found.sentence || "Without a parser, the change is not described in objects." });
  const changes = found.changes.length ? element("ul", { className: "changes" }, ...found.changes.map(each => element("li", {},
    each.blob === null ? each.words : element("button", { type: "button", textContent: each.words, title: "Show this blob", onclick: () => pick(each.blob) }))))
    : element("p", { className: "hint", textContent: "Nothing changed." });
  const steps = found.steps.length ? [element("p", { className: "hint", textContent: "Undone one by one:" }), waterfall(found)] : [];
  const list = element("ul", { className: "bars", "aria-label": "Outputs of the model for the counterfactual" });
  bars(list, outputs, found.said_after, found.said_before);
  const gate = found.gate ? [element("p", { className: "hint", textContent: `Note: the reconstruction is ${found.gate}.` })] : [];
  const buttons = element("div", { className: "row" },
    element("a", { className: "button main", href: file, download: `${name.replace(/\.[^.]*$/, "") || "result"}.zip`, textContent: "Download (zip)" }),
    element("button", { type: "button", textContent: "Edit this result", title: "Continue with its blobs", onclick: () => adopt(found.layout) }));
  return element("article", { className: "card" }, compared(found.before, found.after, ratio, name),
    element("div", { className: "told" }, verdict, told, scores, changes, ...steps, ...gate, list, ...judged(found, name, answer), buttons));
}
