// The page's main path: events in, panels and charts out.

import { Charts } from "./charts.js";
import { el, percent } from "./format.js";
import { drawCheckpoints, drawFindings, drawLog, drawMirror, drawSamples, drawSystem, Overview } from "./panels.js";

const $ = (id) => document.getElementById(id);
const REFRESH_MS = 2000;
const state = { status: null, range: [null, null], series: [], seen: [], shown: [], samples: [], busy: false, fetchedAt: 0 };
const samplesPage = { mode: $("mode"), step: $("samples-step"), list: $("samples"), choose: $("choose-mode") };

const charts = new Charts($("chart-grid"), setRange);
const overview = new Overview($("runs"), (index, shown) => {
  state.shown[index] = shown;
  drawCharts();
});

function setRange(from, to) {
  state.range = [from, to];
  $("from").value = from ?? "";
  $("to").value = to ?? "";
  state.seen = [];
  state.fetchedAt = 0;
  refreshCharts();
}

function drawCharts() {
  const data = state.series
    .map((series, index) => ({ series, index, name: state.status.runs[index].name }))
    .filter(({ series, index }) => series && state.shown[index] !== false);
  $("no-charts").hidden = charts.draw(data);
}

// Charts follow the events, at most once in two seconds.
async function refreshCharts() {
  const runs = state.status?.runs ?? [];
  const stale = runs.filter((run) => state.seen[run.id] !== run.metrics.revision);
  if (state.busy || !stale.length) return;
  const wait = state.fetchedAt + REFRESH_MS - Date.now();
  state.busy = true;
  if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
  state.fetchedAt = Date.now();
  const [from, to] = state.range;
  try {
    for (const run of stale) {
      const query = new URLSearchParams({ run: run.id, points: innerWidth < 700 ? 250 : 500 });
      if (from !== null) query.set("from", from);
      if (to !== null) query.set("to", to);
      const answer = await fetch(`/api/series?${query}`);
      if (!answer.ok) continue;
      const { series, revision } = await answer.json();
      state.series[run.id] = series;
      state.seen[run.id] = revision;
    }
    drawCharts();
  } catch {
    // The connection's own notice says that the server is gone.
  }
  state.busy = false;
  if (String([from, to]) !== String(state.range)) setRange(...state.range);
}

async function refreshSamples(run) {
  const kept = state.samples[run.id];
  if (kept?.revision !== run.samples_revision) {
    state.samples[run.id] = { ...(kept ?? { step: null, samples: [] }), revision: run.samples_revision };
    try {
      const answer = await fetch(`/api/samples?run=${run.id}`);
      if (answer.ok) Object.assign(state.samples[run.id], await answer.json());
    } catch {
      state.samples[run.id].revision = null;
    }
  }
  if (run.id === Number($("run").value || 0)) drawSamples(samplesPage, run, state.samples[run.id]);
}

function drawDetails() {
  const run = state.status.runs[Number($("run").value || 0)];
  drawCheckpoints($("checkpoints"), run);
  drawMirror($("mirror"), run);
  drawFindings($("watch"), run);
  drawLog($("log"), run);
  refreshSamples(run);
}

function show(status) {
  const { runs } = status;
  state.status = status;
  if ($("run").options.length !== runs.length) {
    $("run").replaceChildren(...runs.map((run) => el("option", { value: String(run.id) }, run.name)));
    $("choose-run").hidden = runs.length < 2;
  }
  overview.draw(runs);
  drawSystem($("system"), status);
  drawDetails();
  const reading = runs.find((run) => run.metrics.reading);
  $("reading").hidden = !reading;
  if (reading) $("reading").textContent = `Reading the history of ${reading.name}: ${percent(reading.metrics.read, 0)}. Until it is read, charts show a sample of its rows.`;
  const first = runs[0];
  document.title = `${first.total_steps ? `${percent(first.step / first.total_steps, 0)}, ` : ""}${first.name}: VoxFormer training`;
  refreshCharts();
}

function connect() {
  const note = $("connection");
  const events = new EventSource("/api/events");
  events.addEventListener("status", (event) => {
    note.dataset.live = "true";
    if (note.textContent !== "Live") note.textContent = "Live";
    show(JSON.parse(event.data));
  });
  events.addEventListener("error", () => {
    note.dataset.live = "false";
    note.textContent = "Not connected, trying again";
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
  });
}

const THEMES = ["system", "light", "dark"];

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Theme: ${theme}`;
  $("theme").dataset.theme = theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
  charts.redraw();
}

function storedTheme() {
  try {
    return THEMES.find((theme) => theme === localStorage.getItem("theme")) ?? "system";
  } catch {
    return "system";
  }
}

$("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf($("theme").dataset.theme) + 1) % THEMES.length]));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.redraw());
$("run").addEventListener("change", drawDetails);
$("mode").addEventListener("change", () => state.status && refreshSamples(state.status.runs[Number($("run").value || 0)]));
$("all").addEventListener("click", () => setRange(null, null));
$("range").addEventListener("submit", (event) => {
  event.preventDefault();
  const [from, to] = [$("from").value, $("to").value].map((text) => (/^\d+$/.test(text) ? Number(text) : null));
  setRange(from, to);
});
$("log-scale").addEventListener("change", (event) => {
  charts.logScale = event.target.checked;
  charts.redraw();
});
setTheme(storedTheme());
connect();
