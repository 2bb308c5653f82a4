// What is painted: boxes and label over the picture, and the timeline of the last minute.

export const UNSTABLE = -1, UNKNOWN = -2;
const SPAN = 60, GUTTER = 58, LANE = 24;

// black or white, whichever is easier to read on `colour` (#rrggbb)
export function ink(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b > 125 ? "#000000" : "#ffffff";
}

function fitted(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

export function drawOverlay(canvas, state, colourOf, mirrored) {
  const { context, width, height } = fitted(canvas);
  if (!state) return;
  context.font = "600 16px system-ui, sans-serif";
  context.textBaseline = "middle";
  state.boxes.forEach((face, i) => {
    const [top, left, bottom, right] = face.box;
    const x = (mirrored ? 1 - right : left) * width, y = top * height;
    const w = (right - left) * width, h = (bottom - top) * height;
    const colour = i === 0 ? colourOf(state.label) : "#d0d0d0";
    context.lineWidth = i === 0 ? 6 : 3;
    context.strokeStyle = "#000000a0";
    context.strokeRect(x, y, w, h);
    context.lineWidth = i === 0 ? 3 : 1.5;
    context.strokeStyle = colour;
    context.strokeRect(x, y, w, h);
    const leading = state.smoothed && i === 0 ? ` ${Math.round(100 * confidence(state))} %` : "";
    const text = i === 0 ? `${state.text}${state.label >= 0 ? leading : ""}` : `face ${face.number}, not scored`;
    const wide = context.measureText(text).width + 12;
    const at = Math.min(Math.max(x, 0), Math.max(0, width - wide)), over = y >= 26 ? y - 24 : Math.max(y, 0) + 2;
    context.fillStyle = colour;
    context.fillRect(at, over, wide, 22);
    context.fillStyle = ink(colour);
    context.fillText(text, at + 6, over + 12);
  });
}

// of the label that is shown, else of the leading one
export function confidence(state) {
  if (!state.smoothed) return null;
  return state.label >= 0 ? state.smoothed[state.label] : Math.max(...state.smoothed);
}

export class Timeline {
  constructor(canvas, classes, colourOf) {
    Object.assign(this, { canvas, classes, colourOf, points: [] });
  }

  add(state) {
    const last = this.points.at(-1);
    if (last && state.time < last.time) this.points = [];
    const face = state.smoothed !== null;
    this.points.push({ time: state.time, shown: face ? state.label : null, manual: state.manual >= 0 ? state.manual : null,
      confidence: confidence(state) });
    while (this.points[0].time < state.time - SPAN) this.points.shift();
  }

  draw() {
    const { context, width, height } = fitted(this.canvas);
    const style = getComputedStyle(document.documentElement);
    const [text, soft, line, track] = ["--ink", "--soft", "--line", "--track"].map((n) => style.getPropertyValue(n));
    const end = this.points.length ? this.points.at(-1).time : 0, wide = width - GUTTER - 8;
    const place = (time) => GUTTER + wide * (1 - (end - time) / SPAN);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    const top = 8, graph = top + 2 * LANE + 14, low = height - 20;
    const names = [["shown", top + LANE / 2 - 2], ["yours", top + LANE * 1.5 + 2], ["100 %", graph], ["0 %", low]];
    context.textAlign = "right";
    context.fillStyle = soft;
    for (const [name, y] of names) context.fillText(name, GUTTER - 6, y);
    context.textAlign = "center";
    const apart = wide < 420 ? 20 : 10;
    for (let ago = 0; ago <= SPAN; ago += apart) {
      const x = GUTTER + wide * (1 - ago / SPAN);
      context.fillStyle = line;
      context.fillRect(x, graph, 1, low - graph);
      context.fillStyle = soft;
      const shift = ago === SPAN ? 24 : ago === 0 ? -12 : 0;
      context.fillText(ago ? `${ago} s ago` : "now", x + shift, height - 9);
    }
    context.fillStyle = track;
    context.fillRect(GUTTER, top, wide, LANE - 4);
    context.fillRect(GUTTER, top + LANE + 4, wide, LANE - 4);
    context.fillStyle = line;
    for (const y of [graph, low]) context.fillRect(GUTTER, y, wide, 1);
    this.lane(context, place, "shown", top, text, line);
    this.lane(context, place, "manual", top + LANE + 4, text, line);
    this.curve(context, place, graph, low, text);
  }

  lane(context, place, name, y, text, grey) {
    for (let i = 0; i < this.points.length;) {
      const label = this.points[i][name];
      let stop = i + 1;
      while (stop < this.points.length && this.points[stop][name] === label) stop += 1;
      const from = place(this.points[i].time), to = place(this.points[Math.min(stop, this.points.length - 1)].time);
      i = stop;
      if (label === null) continue;
      const colour = label === UNSTABLE ? grey : this.colourOf(label);
      context.fillStyle = colour;
      context.fillRect(from, y, Math.max(to - from, 1), LANE - 4);
      const word = label >= 0 ? this.classes[label] : label === UNKNOWN ? "Unknown" : "(unstable)";
      context.fillStyle = label === UNSTABLE ? text : ink(colour);
      for (const short of [word, label >= 0 ? String(label + 1) : "?"]) {
        if (context.measureText(short).width + 6 > to - from) continue;
        context.fillText(short, (from + to) / 2, y + LANE / 2 - 2);
        break;
      }
    }
  }

  curve(context, place, graph, low, colour) {
    context.beginPath();
    let drawing = false;
    for (const point of this.points) {
      if (point.confidence === null) {
        drawing = false;
        continue;
      }
      const x = place(point.time), y = low - (low - graph) * point.confidence;
      if (drawing) context.lineTo(x, y);
      else context.moveTo(x, y);
      drawing = true;
    }
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.stroke();
  }
}
