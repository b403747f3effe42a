// Layouts and their edits. A layout is never changed: an edit gives a new one, which is what undo needs.

const ABSENT = -6; // the size of a blob that shows nothing, as the generator learnt it
const LEAST = 0.05, MOST = 9000; // sizes; the root of a size is proportional to the blob's length
const limited = (value, low, high) => Math.min(high, Math.max(low, value));

const edited = (layout, number, change) => ({ ...layout,
  blobs: layout.blobs.map((blob, place) => place === number ? { ...blob, ...change(blob) } : blob) });

export const moved = (layout, number, right, down) => edited(layout, number,
  blob => ({ x: limited(blob.x + right, -0.5, 1.5), y: limited(blob.y + down, -0.5, 1.5) }));

export const resized = (layout, number, factor) => edited(layout, number,
  blob => ({ size: limited(blob.size > 0 ? blob.size * factor ** 2 : factor > 1 ? 1 : blob.size, blob.size > 0 ? LEAST : -100, MOST) }));

export const turned = (layout, number, angle) => edited(layout, number, ({ covs: [first, second, right, down] }) => {
  const [cosine, sine] = [Math.cos(angle), Math.sin(angle)];
  return { covs: [first, second, cosine * right - sine * down, sine * right + cosine * down] };
});

export const isHidden = blob => blob.size <= 0;
export const hidden = (layout, number) => edited(layout, number, () => ({ size: ABSENT }));
export const shown = (layout, number, size) => edited(layout, number, () => ({ size }));
export const restyled = (layout, number, look) => edited(layout, number, () => ({ look }));

/** What an outline becomes when its blob is edited, until the server says it: [x, y, along, across, angle]. */
export function outlined([, , along, across, angle], before, after) {
  const grown = before.size > 0 ? Math.sqrt(Math.max(after.size, 0) / before.size) : 0;
  const turn = Math.atan2(after.covs[3], after.covs[2]) - Math.atan2(before.covs[3], before.covs[2]);
  return [after.x, after.y, along * grown, across * grown, angle + turn];
}

const TOGETHER = 700; // milliseconds in which equal edits count as one

/** Layouts one after the other. */
export class History {
  constructor(layout) { this.past = []; this.now = layout; this.future = []; this.kind = ""; this.at = 0; }

  /** `kind` says what is edited: one kind in quick succession is one edit. */
  push(layout, kind) {
    const at = performance.now();
    if (kind !== this.kind || at - this.at > TOGETHER) this.past.push(this.now);
    Object.assign(this, { now: layout, future: [], kind, at });
  }

  undo() {
    if (!this.past.length) return false;
    this.future.push(this.now);
    Object.assign(this, { now: this.past.pop(), kind: "" });
    return true;
  }

  redo() {
    if (!this.future.length) return false;
    this.past.push(this.now);
    Object.assign(this, { now: this.future.pop(), kind: "" });
    return true;
  }
}
