// Everything on the page that is not a chart.

import { bandOf, bytes, duration, el, number, percent, when } from "./format.js";
import { runColour } from "./charts.js";

const fact = (name, value, extra) => el("div", {}, el("dt", {}, name), el("dd", {}, value, extra));

function bar(fraction, name) {
  const share = Math.min(1, Math.max(0, fraction || 0));
  const box = el("div", { class: "bar", role: "progressbar", "aria-label": name, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": String(Math.round(100 * share)) }, el("div"));
  box.firstChild.style.width = `${100 * share}%`;
  return box;
}

// One card a run, made once so that its checkbox keeps the focus, and filled again with each event.
export class Overview {
  constructor(box, onChoice) {
    Object.assign(this, { box, onChoice, cards: [] });
  }

  draw(runs) {
    if (this.cards.length !== runs.length) this.make(runs);
    runs.forEach((run, index) => this.fill(this.cards[index], run));
  }

  make(runs) {
    this.cards = runs.map((run, index) => {
      const swatch = el("span", { class: "swatch" }), state = el("span", { class: "state" });
      swatch.style.background = runColour(index);
      const head = el("header", {}, el("h3", {}, runs.length > 1 ? swatch : null, run.name), state);
      if (runs.length > 1) {
        const box = el("input", { type: "checkbox" });
        box.checked = true;
        box.addEventListener("change", () => this.onChoice(index, box.checked));
        head.append(el("label", { class: "check" }, box, "in the charts", el("span", { class: "unseen" }, ` of ${run.name}`)));
      }
      const body = el("div");
      return { card: el("article", { class: "card", id: `run-${index}` }, head, body), state, body };
    });
    this.box.replaceChildren(...this.cards.map(({ card }) => card));
  }

  fill({ state, body }, run) {
    const { latest } = run, done = run.total_steps ? run.step / run.total_steps : null;
    const missing = run.there ? "" : ", folder is gone";
    const since = run.state === "quiet" ? ` since ${when(run.updated)}` : "";
    state.textContent = `${run.state}${since}${run.stage ? `, stage ${run.stage}` : ""}${missing}`;
    const epochs = `epoch ${typeof run.epoch === "number" ? run.epoch.toFixed(2) : "–"} of ${number(run.num_epochs)}`;
    const facts = [
      fact("Time left", duration(run.eta_s)),
      fact("Loss", number(latest.loss)),
      fact("CTC", number(latest.ctc)),
      fact("Cross-entropy", number(latest.ce)),
      fact("Learning rate", number(latest.learning_rate)),
      fact("Gradient norm", number(latest.gradient_norm)),
      fact("× real time", number(latest.audio_per_second, 3)),
      fact("Time per step", run.seconds_per_step ? `${number(run.seconds_per_step, 3)} s` : "–"),
      fact("Skipped steps", number(latest.skipped_steps)),
    ];
    if (run.metrics.bad_lines) facts.push(fact("Unreadable rows", number(run.metrics.bad_lines)));
    const wers = Object.entries(run.wer).map(([mode, wer]) => {
      const name = wer.band ?? (wer.value === null ? "" : bandOf(wer.value));
      return fact(`WER ${mode}`, `${percent(wer.value)} `, el("span", { class: `band ${name}` }, name));
    });
    // What the last evaluation no longer shows is left to the list.
    const [found] = run.findings, current = found && found.severity !== "info" && found.step >= (run.valid.step ?? 0);
    const newest = current ? `Watch, step ${number(found.step)}: ${found.message}` : "";
    body.replaceChildren(
      bar(done, `Steps of ${run.name}`),
      el("p", {}, `${done === null ? "" : `${percent(done)}, `}step ${number(run.step)} of ${number(run.total_steps)}, ${epochs}`),
      ...(newest ? [el("p", { class: `finding ${found.severity}` }, newest)] : []),
      el("dl", { class: "facts" }, ...facts),
      ...(wers.length ? [el("dl", { class: "facts wers" }, ...wers)] : []),
    );
  }
}

const tile = (title, value, more, share) =>
  el("div", { class: "tile" }, el("h3", {}, title), el("p", {}, value), more ? el("p", { class: "more" }, more) : null, share === undefined ? null : bar(share, title));

export function drawSystem(box, { system, runs }) {
  const tiles = system.gpus.map((gpu) => tile(
    `GPU ${gpu.index}, ${gpu.name ?? "unnamed"}`,
    `${number(gpu.utilisation_percent)} % busy`,
    `${bytes(gpu.memory_used)} of ${bytes(gpu.memory_total)}, ${number(gpu.temperature_c)} °C, ${number(gpu.power_w)} W`,
    gpu.utilisation_percent / 100,
  ));
  if (!tiles.length) tiles.push(tile("GPU", system.gpu_note));
  const { memory } = system;
  tiles.push(memory ? tile("Memory", `${bytes(memory.used)} of ${bytes(memory.total)}`, "", memory.used / memory.total) : tile("Memory", "unknown"));
  tiles.push(tile("Load", number(system.load, 3), `${number(system.cpus)} processors`));
  const seen = new Set();
  for (const { disk } of runs) {
    if (!disk || seen.has(disk.total)) continue;
    seen.add(disk.total);
    tiles.push(tile("Disk", `${bytes(disk.free)} left`, `of ${bytes(disk.total)}`, 1 - disk.free / disk.total));
  }
  box.replaceChildren(...tiles);
}

// Redrawn only where something changed, so that a control in it keeps the focus.
function whenChanged(box, content, draw) {
  const key = JSON.stringify(content);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  const focused = box.contains(document.activeElement) ? document.activeElement.id : "";
  draw();
  if (focused) document.getElementById(focused)?.focus();
}

export function drawCheckpoints(box, run) {
  whenChanged(box, [run.id, run.checkpoints], () => {
    const rows = run.checkpoints.map((checkpoint) => {
      const button = el("button", { type: "button", id: `verify-${checkpoint.name}`, "aria-label": `Verify ${checkpoint.name}` }, "Verify");
      const state = el("td", {}, checkpoint.state);
      button.addEventListener("click", () => verify(run.id, checkpoint.name, button, state));
      return el("tr", {}, el("th", { scope: "row" }, checkpoint.name), state, el("td", {}, checkpoint.has_digest ? button : null), el("td", { class: "number" }, bytes(checkpoint.bytes)), el("td", {}, when(checkpoint.modified)));
    });
    if (!rows.length) rows.push(el("tr", {}, el("td", { colspan: "5" }, "None yet.")));
    box.replaceChildren(...rows);
  });
}

async function verify(run, name, button, state) {
  button.setAttribute("aria-disabled", "true");
  state.textContent = "reading the whole file…";
  try {
    const answer = await fetch(`/api/verify?${new URLSearchParams({ run, name })}`, { method: "POST" });
    const result = await answer.json();
    state.textContent = result.state ?? result.error;
  } catch {
    state.textContent = "no answer";
  }
  button.removeAttribute("aria-disabled");
}

export function drawMirror(box, { mirror }) {
  if (!mirror) {
    box.textContent = "Mirror: none.";
    return;
  }
  const parts = [`Mirror ${mirror.url ?? ""}: last success ${mirror.last_success == null ? "none" : when(mirror.last_success)}`];
  if (mirror.pending != null) parts.push(`${number(mirror.pending)} pending`);
  if (mirror.last_error) parts.push(`last error: ${mirror.last_error}`);
  box.textContent = parts.join("; ");
}

// Newest first; what the run was stopped by is told by colour and by word.
export function drawFindings(box, run) {
  whenChanged(box, [run.id, run.findings], () => box.replaceChildren(
    ...(run.findings.length ? run.findings.map(findingItem) : [el("li", {}, "Nothing found.")]),
  ));
}

function findingItem({ step, name, mode, severity, message }) {
  const kind = { critical: "critical", warning: "moderate" }[severity] ?? "target";
  const head = el("span", { class: `band ${kind}` }, `${severity}: ${name.replaceAll("_", " ")}${mode ? `, ${mode}` : ""}`);
  return el("li", {}, el("span", { class: "label" }, `step ${number(step)}`), head, el("p", {}, message));
}

export function drawLog(box, run) {
  whenChanged(box, [run.id, run.log], () => {
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    box.textContent = run.log.join("\n") || "No log yet.";
    if (atEnd) box.scrollTop = box.scrollHeight;
  });
}

export function drawSamples(page, run, { step, samples }) {
  const modes = [...new Set(samples.flatMap((sample) => Object.keys(sample.hypotheses)))];
  const select = page.mode, chosen = modes.includes(select.value) ? select.value : modes.at(-1);
  whenChanged(select, modes, () => select.replaceChildren(...modes.map((mode) => el("option", { value: mode }, mode))));
  if (chosen) select.value = chosen;
  page.choose.hidden = !modes.length;
  page.step.textContent = step === null ? "" : `in the evaluation at step ${number(step)}`;
  whenChanged(page.list, [run.id, step, samples, chosen], () => page.list.replaceChildren(
    ...(samples.length ? samples.map((sample) => sampleItem(run, sample, chosen)) : [el("li", {}, "No evaluation has left any yet.")]),
  ));
}

function sampleItem(run, sample, mode) {
  const words = (sample.hypotheses[mode] ?? []).flatMap(([kind, text], index) => {
    const node = kind === "same" ? text : el(kind === "missing" ? "del" : "ins", {}, text);
    return index ? [" ", node] : [node];
  });
  const line = (name, ...children) => el("p", {}, el("span", { class: "label" }, name), ...children);
  const source = `/api/audio?${new URLSearchParams({ run: run.id, id: sample.id })}`;
  return el("li", {},
    el("h3", {}, sample.id),
    line("Reference", sample.reference || "(nothing)"),
    line("Hypothesis", ...(words.length ? words : ["(nothing)"])),
    sample.playable ? el("audio", { controls: true, preload: "none", src: source, "aria-label": `Recording ${sample.id}` }) : null,
  );
}
