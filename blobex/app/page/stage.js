// The picture with its handles: what is drawn over it, and what the pointer does there.

const SPACE = "http://www.w3.org/2000/svg";
const HIGH = 100; // units of the overlay
const DOT = 3.5, FINGER = 14; // pixels: radii that are seen, and hit by a finger, on small screens, too
const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"]; // Okabe and Ito, 2008
export const colour = number => COLOURS[number % COLOURS.length];

const make = (name, attributes, parent) => {
  const node = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return parent.appendChild(node);
};
const inside = (value, low, high) => Math.min(high, Math.max(low, value));

/** `told` has pick(blob), move(blob, right, down), resize(blob, factor), turn(blob, angle), drawn(region), let go(). */
export class Stage {
  constructor(overlay, told) {
    Object.assign(this, { overlay, told, view: null, drag: null });
    overlay.addEventListener("pointerdown", event => this.press(event));
    overlay.addEventListener("pointermove", event => this.drag && this.pull(event));
    for (const name of ["pointerup", "pointercancel"]) overlay.addEventListener(name, () => { this.drag = null; told.done(); });
  }

  /** Draw anew: `view` has outlines, owners, rows, columns, selected, ticked, region, drawing, all, width, stretch. */
  show(view) {
    this.view = view;
    const { overlay } = this, wide = view.width;
    this.pixel = HIGH / (overlay.clientHeight || HIGH);
    overlay.setAttribute("viewBox", `0 0 ${wide} ${HIGH}`);
    overlay.replaceChildren();
    overlay.classList.toggle("drawing", view.drawing);
    const group = make("g", { transform: `scale(${view.stretch} 1)` }, overlay);
    view.outlines.forEach((outline, number) => {
      const chosen = number === view.selected, ticked = view.ticked.has(number);
      if ((view.all || chosen || ticked) && outline[2] > 0) this.blob(group, number, outline, chosen, ticked);
    });
    if (view.selected !== null && view.outlines[view.selected][2] > 0) this.knobs(view.selected);
    if (view.region) this.area(view.region);
  }

  blob(group, number, [x, y, along, across, angle], chosen, ticked) {
    const centre = [x * this.view.width / this.view.stretch, y * HIGH];
    const shape = { cx: centre[0], cy: centre[1], rx: along * HIGH, ry: across * HIGH,
      transform: `rotate(${angle * 180 / Math.PI} ${centre[0]} ${centre[1]})` };
    const kind = `${chosen ? " chosen" : ""}${ticked ? " ticked" : ""}`;
    make("ellipse", { ...shape, class: `edge${kind}` }, group);
    make("ellipse", { ...shape, class: `line${kind}`, stroke: colour(number) }, group);
    make("circle", { cx: inside(x, 0.01, 0.99) * this.view.width / this.view.stretch, cy: inside(y, 0.01, 0.99) * HIGH, r: Math.max(chosen ? 1.8 : 1.2, DOT * this.pixel * (chosen ? 1.3 : 1)),
      class: "dot", fill: colour(number), "data-blob": number }, group);
  }

  /** Where a length's end is, kept within the picture: it is dragged by its distance, so its place may give way. */
  end([x, y, along, , angle], side) {
    const { width, stretch } = this.view;
    return [inside((x * width / stretch + side * along * HIGH * Math.cos(angle)) * stretch, 2.5, width - 2.5),
      inside(y * HIGH + side * along * HIGH * Math.sin(angle), 2.5, HIGH - 2.5)];
  }

  knobs(number) {
    const outline = this.view.outlines[number];
    const [right, down] = this.end(outline, 1), [left, up] = this.end(outline, -1);
    const reach = Math.max(2.1, Math.min(FINGER * this.pixel, 0.6 * outline[2] * HIGH)); // not as far as the blob's middle
    for (const [kind, cx, cy] of [["resize", right, down], ["turn", left, up]])
      make("circle", { cx, cy, r: reach, class: "grip", "data-knob": kind, "data-blob": number }, this.overlay);
    for (const [shape, kind] of [["rect", "resize"], ["circle", "turn"]]) {
      const place = kind === "resize" ? { x: right - 2, y: down - 2, width: 4, height: 4, rx: 0.8 } : { cx: left, cy: up, r: 2.1 };
      const node = make(shape, { ...place, class: "knob", "data-knob": kind, "data-blob": number, fill: colour(number) }, this.overlay);
      make("title", {}, node).textContent = kind === "resize" ? "Drag to resize" : "Drag to turn";
    }
  }

  area([left, top, right, bottom]) {
    const { width } = this.view;
    make("rect", { class: "region", x: left * width, y: top * HIGH, width: (right - left) * width, height: (bottom - top) * HIGH }, this.overlay);
  }

  /** x and y as shares of the picture. */
  at(event) {
    const box = this.overlay.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  owner([x, y]) {
    const { owners, rows, columns } = this.view;
    return owners[inside(Math.floor(y * rows), 0, rows - 1) * columns + inside(Math.floor(x * columns), 0, columns - 1)];
  }

  press(event) {
    if (!this.view || event.button > 0) return;
    const from = this.at(event), { knob, blob } = event.target.dataset;
    this.overlay.setPointerCapture(event.pointerId);
    if (this.view.drawing) { this.drag = { kind: "region", from }; return; }
    const number = blob === undefined ? this.owner(from) : Number(blob);
    this.told.pick(number < 0 ? null : number);
    if (number >= 0) this.drag = { kind: knob || "move", number, last: from, ...this.polar(number, from) };
  }

  polar(number, [x, y]) {
    const [left, top] = this.view.outlines[number], { width } = this.view;
    const [right, down] = [(x - left) * width / this.view.stretch, (y - top) * HIGH];
    return { length: Math.max(Math.hypot(right, down), 1), angle: Math.atan2(down, right) };
  }

  pull(event) {
    const to = this.at(event), { drag, told } = this;
    if (drag.kind === "region") {
      const [[x1, y1], [x2, y2]] = [drag.from, to].map(point => point.map(share => inside(share, 0, 1)));
      told.drawn([Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)]);
      return;
    }
    const now = this.polar(drag.number, to);
    if (drag.kind === "move") told.move(drag.number, to[0] - drag.last[0], to[1] - drag.last[1]);
    if (drag.kind === "resize") told.resize(drag.number, now.length / drag.length);
    if (drag.kind === "turn") told.turn(drag.number, now.angle - drag.angle);
    Object.assign(drag, { last: to }, now);
  }
}
