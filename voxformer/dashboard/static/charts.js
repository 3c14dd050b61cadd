// Charts over steps, drawn by uPlot. With one run a colour is a metric; with several it is a run and
// the dashes are the metric.

import { el, number } from "./format.js";

const CHARTS = [
  { id: "wer", title: "Word error rate by decoding mode (validation), %", kind: /^valid\.wer_/, wide: true, factor: 100, unit: " %" },
  { id: "loss", title: "Loss", keys: ["train.loss", "valid.loss"], log: true },
  { id: "ctc", title: "CTC loss, nats per token", keys: ["train.ctc", "valid.ctc"], log: true },
  { id: "crf", title: "CTC-CRF loss, nats per token", keys: ["train.crf", "valid.crf"], log: true },
  { id: "ce", title: "Cross-entropy of the decoder, nats per token", keys: ["train.ce", "valid.ce"], log: true },
  { id: "lr", title: "Learning rate", keys: ["train.learning_rate"] },
  { id: "norm", title: "Gradient norm", keys: ["train.gradient_norm"], log: true },
  { id: "speed", title: "Speed, seconds of audio per second", keys: ["train.audio_per_second"] },
  { id: "weight", title: "CTC weight", keys: ["train.ctc_weight"] },
];
const BANDS = [
  ["target", 0, 15], ["good", 15, 25], ["moderate", 25, 50], ["high", 50, 100], ["critical", 100, Infinity],
];
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [14, 5], [4, 8]];
const COLOURS = 6;
const HEIGHT = 230;

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const label = (key) => key.replace(/^valid\.wer_/, "").replace(/^train\.(ctc|ce|loss)$/, "training").replace(/^valid\..*/, "validation").replace(/^.*\./, "").replaceAll("_", " ");

// uPlot cannot draw an axis of no length.
const spread = ([first, last]) => (last > first ? [first, last] : [first - 1, first + 1]);

export const runColour = (index) => `var(--s${index % COLOURS})`;

export class Charts {
  constructor(grid, onRange) {
    this.grid = grid;
    this.onRange = onRange;
    this.logScale = false;
    this.charts = CHARTS.map((spec) => new Chart(spec, this));
  }

  // data: [{ name, index, series: { key: { x, y } } }] of the runs that are compared.
  draw(data) {
    this.data = data;
    const steps = data.flatMap(({ series }) => Object.values(series).flatMap(({ x }) => [x[0], x.at(-1)])).filter((step) => step !== undefined);
    this.limits = [Math.min(...steps), Math.max(...steps)];
    let any = false;
    for (const chart of this.charts) any = chart.draw(data) || any;
    return any;
  }

  redraw() {
    for (const chart of this.charts) chart.drop();
    if (this.data) this.draw(this.data);
  }
}

class Chart {
  constructor(spec, owner) {
    this.spec = spec;
    this.owner = owner;
    this.hidden = new Set();
    this.plot = el("div", { class: "plot", tabindex: "0", role: "group", "aria-roledescription": "chart" });
    this.legend = el("ul", { class: "legend" });
    this.spoken = el("p", { class: "unseen", role: "status" });
    this.box = el("div", { class: `chart${spec.wide ? " wide" : ""}`, id: `chart-${spec.id}` },
      el("h3", {}, spec.title), this.plot, this.legend, this.spoken);
    this.box.hidden = true;
    owner.grid.append(this.box);
    this.plot.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.fit()).observe(this.plot);
  }

  lines(data) {
    const found = [];
    for (const run of data) {
      const keys = this.spec.keys ?? Object.keys(run.series).filter((key) => this.spec.kind.test(key)).sort();
      keys.forEach((key, place) => {
        const series = run.series[key];
        if (!series || !series.y.some((value) => value !== null)) return;
        const alone = data.length === 1;
        found.push({
          id: `${run.index}:${key}`,
          name: alone ? label(key) : `${run.name} ${keys.length > 1 ? label(key) : ""}`.trim(),
          colour: (alone ? place : run.index) % COLOURS,
          dash: alone && !key.startsWith("valid.") ? [] : DASHES[place % DASHES.length],
          points: key.startsWith("valid.") || series.x.length < 3,
          x: series.x,
          y: series.y.map((value) => this.value(value)),
        });
      });
    }
    return found;
  }

  value(value) {
    if (value === null) return null;
    const scaled = value * (this.spec.factor ?? 1);
    return this.onLog && scaled <= 0 ? null : scaled;
  }

  get onLog() {
    return Boolean(this.spec.log && this.owner.logScale);
  }

  draw(data) {
    const lines = this.lines(data);
    this.box.hidden = !lines.length;
    if (!lines.length) {
      this.drop();
      return false;
    }
    // A value that is absent at a step of another line is passed over; a null is a gap.
    const joined = uPlot.join(lines.map((line) => [line.x, line.y]), lines.map(() => [0, 1]));
    const signature = JSON.stringify([lines.map((line) => [line.id, line.name, line.colour, line.points]), this.onLog]);
    this.drawn = lines;
    if (this.uplot && signature === this.signature) this.uplot.setData(joined);
    else this.make(lines, joined);
    this.signature = signature;
    this.describe();
    return true;
  }

  make(lines, joined) {
    this.drop();
    const text = css("--muted"), grid = { stroke: css("--line"), width: 1 };
    const axis = { stroke: text, grid, ticks: grid, font: "12px system-ui, sans-serif" };
    const compact = (u, values) => values.map((value) => (value === null ? "" : number(value, 3)));
    this.uplot = new uPlot({
      width: this.plot.clientWidth || 300,
      height: this.spec.wide ? HEIGHT + 50 : HEIGHT,
      legend: { show: false },
      cursor: { sync: { key: "steps", scales: ["x", null] }, drag: { x: true, y: false, setScale: false }, y: false },
      scales: {
        x: { time: false, range: () => spread(this.owner.limits) },
        y: { distr: this.onLog ? 3 : 1, range: this.spec.id === "wer" ? (u, least, most) => [0, Math.max(20, 1.08 * (most ?? 0))] : undefined },
      },
      axes: [{ ...axis, values: compact, space: 70, size: 32 }, { ...axis, size: 58, values: compact }],
      series: [{}, ...lines.map((line) => ({
        label: line.name,
        stroke: css(`--s${line.colour}`),
        width: 1.8,
        dash: line.dash,
        show: !this.hidden.has(line.id),
        points: { show: line.points, size: 6, fill: css("--card") },
      }))],
      hooks: {
        drawClear: this.spec.id === "wer" ? [drawBands] : [],
        setSelect: [(u) => this.selected(u)],
        setCursor: [() => this.values()],
      },
    }, joined, this.plot);
    this.uplot.over.addEventListener("dblclick", () => this.owner.onRange(null, null));
    this.makeLegend(lines);
  }

  makeLegend(lines) {
    this.outputs = [];
    this.legend.replaceChildren(...lines.map((line, index) => {
      const output = el("b", {});
      this.outputs.push(output);
      const stroke = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      stroke.setAttribute("aria-hidden", "true");
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      for (const [key, value] of [["d", "M0 4H22"], ["stroke", css(`--s${line.colour}`)], ["stroke-width", "3"], ["stroke-dasharray", line.dash.join(" ")]]) path.setAttribute(key, value);
      stroke.append(path);
      const button = el("button", { type: "button", "aria-pressed": String(!this.hidden.has(line.id)) }, stroke, line.name, output);
      button.addEventListener("click", () => {
        const show = this.hidden.has(line.id);
        if (show) this.hidden.delete(line.id); else this.hidden.add(line.id);
        button.setAttribute("aria-pressed", String(show));
        this.uplot.setSeries(index + 1, { show });
      });
      return el("li", {}, button);
    }));
  }

  // Values at the cursor, or the newest; of a line that has none there, the one before.
  at(index) {
    const data = this.uplot.data;
    return this.drawn.map((line, place) => {
      for (let i = index ?? data[0].length - 1; i >= 0; i--) if (data[place + 1][i] != null) return data[place + 1][i];
      return null;
    });
  }

  values() {
    if (!this.outputs) return;
    this.at(this.uplot.cursor.idx).forEach((value, index) => { this.outputs[index].textContent = `${number(value)}${this.spec.unit ?? ""}`; });
  }

  describe() {
    const newest = this.at(null), data = this.uplot.data[0];
    const said = this.drawn.map((line, index) => `${line.name} ${number(newest[index])}`).join(", ");
    this.plot.setAttribute("aria-label", `${this.spec.title}, step ${data[0]} to ${data[data.length - 1]}; newest: ${said}. Arrow keys read values.`);
    this.values();
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || !this.uplot || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const x = this.uplot.data[0];
    const index = Math.min(x.length - 1, Math.max(0, (this.uplot.cursor.idx ?? x.length) + step));
    this.uplot.setCursor({ left: this.uplot.valToPos(x[index], "x"), top: 10 });
    this.spoken.textContent = `Step ${x[index]}: ${this.drawn.map((line, i) => `${line.name} ${number(this.at(index)[i])}`).join(", ")}`;
  }

  selected(u) {
    if (u.select.width < 4) return;
    const ends = [u.select.left, u.select.left + u.select.width].map((left) => Math.round(u.posToVal(left, "x")));
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.owner.onRange(Math.max(0, ends[0]), Math.max(0, ends[1]));
  }

  fit() {
    if (this.uplot && this.plot.clientWidth && this.plot.clientWidth !== this.uplot.width) {
      this.uplot.setSize({ width: this.plot.clientWidth, height: this.uplot.height });
    }
  }

  drop() {
    this.uplot?.destroy();
    this.uplot = this.outputs = this.signature = null;
    this.legend.replaceChildren();
  }
}

function drawBands(u) {
  const { ctx } = u, { left, top, width, height } = u.bbox;
  const most = u.scales.y.max;
  ctx.save();
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  ctx.textAlign = "right";
  for (const [name, low, high] of BANDS) {
    if (low >= most) continue;
    const bottom = u.valToPos(low, "y", true), upper = u.valToPos(Math.min(high, most), "y", true);
    ctx.fillStyle = css(`--${name}`);
    ctx.globalAlpha = Number(css("--fill"));
    ctx.fillRect(left, Math.max(top, upper), width, Math.min(bottom, top + height) - Math.max(top, upper));
    ctx.globalAlpha = 1;
    if (bottom - upper > 13 * devicePixelRatio) ctx.fillText(name, left + width - 6 * devicePixelRatio, bottom - 4 * devicePixelRatio);
  }
  ctx.restore();
}
