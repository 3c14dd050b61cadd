// What the browser test asks of a page; each function returns what is wrong.

const parse = (colour) => {
  const numbers = colour.match(/[\d.]+/g).map(Number);
  return numbers.length < 4 ? [...numbers, 1] : numbers;
};

// Relative luminance and contrast as WCAG 2.2 defines them.
const luminance = (colour) => {
  const [r, g, b] = colour.slice(0, 3).map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (first, second) => {
  const [a, b] = [luminance(first), luminance(second)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
};

const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = parse(getComputedStyle(node).backgroundColor);
    if (colour[3] === 1) return colour;
  }
  return [255, 255, 255, 1];
};

// Text below level AA: 4.5, or 3 where it is large.
function faintText() {
  const bad = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), node = walker.currentNode.parentElement;
    if (!text || !node.checkVisibility() || node.closest("noscript, script")) continue;
    const style = getComputedStyle(node), size = parseFloat(style.fontSize);
    const ratio = contrast(parse(style.color), behind(node));
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    seen++;
    if (ratio < (large ? 3 : 4.5)) bad.push([text.slice(0, 40), ratio.toFixed(2)]);
  }
  return { seen, bad };
}

// Lines of charts and edges of controls below 3 against a card.
function faintLines() {
  const style = getComputedStyle(document.documentElement), probe = document.createElement("i");
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = style.getPropertyValue(name);
    return parse(getComputedStyle(probe).color);
  };
  const names = ["--s0", "--s1", "--s2", "--s3", "--s4", "--s5", "--control", "--accent"];
  const bad = names.filter((name) => contrast(colour(name), colour("--card")) < 3);
  probe.remove();
  return bad;
}

// Controls, and what can be focused, without a name.
function unlabelled() {
  const named = (node) =>
    node.ariaLabel ||
    node.labels?.length ||
    (node.matches("button, a") && node.textContent.trim()) ||
    node.getAttribute("aria-labelledby")?.split(" ").every((id) => document.getElementById(id));
  const all = "button, input, select, audio, a[href], [tabindex='0'], [role='progressbar']";
  return [...document.querySelectorAll(all)]
    .filter((node) => node.checkVisibility() && !named(node))
    .map((node) => node.outerHTML.slice(0, 120));
}
