// How numbers, times and sizes are written, and how elements are made. Text from a run is only ever
// set as text, never as markup.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") node.className = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const known = (value) => typeof value === "number" && Number.isFinite(value);

export function number(value, digits = 4) {
  if (!known(value)) return "–";
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
}

export const percent = (fraction, digits = 1) =>
  known(fraction) ? `${(100 * fraction).toFixed(digits)} %` : "–";

export function bytes(value) {
  if (!known(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${value.toFixed(unit && value < 100 ? 1 : 0)} ${units[unit]}`;
}

export function duration(seconds) {
  if (!known(seconds)) return "–";
  const minutes = Math.round(seconds / 60);
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function when(time) {
  const date = new Date(typeof time === "number" ? 1000 * time : time);
  return Number.isNaN(date.getTime()) ? String(time) : date.toLocaleString("sv");
}

export function bandOf(wer) {
  for (const [least, name] of [[0.5, "high"], [0.25, "moderate"], [0.15, "good"]]) {
    if (wer > 1) return "critical";
    if (wer >= least) return name;
  }
  return "target";
}
