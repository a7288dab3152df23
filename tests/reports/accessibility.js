const found = [];
const say = (rule, element) => found.push(`${rule}: ${element.outerHTML.slice(0, 120)}`);
const visible = (element) => element.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: false });
const named = (element) => {
  const by = element.getAttribute("aria-labelledby");
  const label = element.labels?.length ? element.labels[0].textContent : "";
  const pictures = [...element.querySelectorAll("img")].map((image) => image.alt).join("");
  return (element.getAttribute("aria-label") || (by && document.getElementById(by)?.textContent) || label || pictures ||
    element.textContent).trim();
};
if (!document.documentElement.lang) found.push("no language");
if (!document.title.trim()) found.push("no title");
if (document.querySelectorAll("main").length !== 1) found.push("not one main landmark");
if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
let level = 0;
for (const heading of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
  const own = Number(heading.tagName[1]);
  if (own > level + 1) say("heading level skipped", heading);
  if (!heading.textContent.trim()) say("empty heading", heading);
  level = own;
}
const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
ids.filter((id, place) => ids.indexOf(id) !== place).forEach((id) => found.push(`id twice: ${id}`));
for (const link of document.querySelectorAll("a[href^='#']"))
  if (!document.getElementById(link.getAttribute("href").slice(1))) say("link leads nowhere", link);
for (const element of document.querySelectorAll("a, button, input, select, summary, [role=region], [role=img], nav, section[aria-labelledby]"))
  if (!named(element)) say("no name", element);
for (const image of document.querySelectorAll("img")) if (!image.alt) say("no alternative text", image);
for (const drawing of document.querySelectorAll("svg"))
  if (drawing.getAttribute("aria-hidden") !== "true" && drawing.getAttribute("role") !== "img") say("svg without role", drawing);
for (const table of document.querySelectorAll("table")) {
  if (!table.caption?.textContent.trim()) say("table without caption", table);
  for (const cell of table.querySelectorAll("th"))
    if (!["col", "row"].includes(cell.scope)) say("heading cell without scope", cell);
  for (const row of table.tBodies[0].rows) if (!row.querySelector("th[scope=row]")) say("row without heading", row);
}
for (const element of document.querySelectorAll("[tabindex]"))
  if (element.tabIndex > 0) say("focus order changed", element);
for (const element of document.querySelectorAll("*"))
  if (element.scrollWidth > element.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(element).overflowX) &&
      visible(element) && element.tabIndex < 0) say("scrolls, but not by keyboard", element);
if (document.documentElement.scrollWidth > innerWidth) found.push(`page is wider than the window: ${document.documentElement.scrollWidth}`);
for (const control of document.querySelectorAll("button, select, input, summary")) {
  const box = control.getBoundingClientRect();
  if (visible(control) && box.width && (box.width < 24 && box.height < 24) && !control.labels?.length) say("small target", control);
}

const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgba = (color) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
const ratio = (one, two) => { const [a, b] = [light(one), light(two)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
const paper = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) layers.unshift(rgba(getComputedStyle(at).backgroundColor));
  return layers.reduce((under, layer) => over(layer, under), [255, 255, 255, 1]);
};
const seen = new Set();
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || element.closest("script, style, title, .hidden, option, noscript") || !visible(element)) continue;
  const style = getComputedStyle(element);
  const background = paper(element);
  const color = element.closest("svg") ? style.fill : style.color;
  const contrast = ratio(over(rgba(color), background), background);
  const key = `${color} on ${background.map(Math.round)}`;
  if (contrast < 4.5 && !seen.has(key)) { seen.add(key); say(`contrast ${contrast.toFixed(2)} (${key})`, element); }
}
return found;
