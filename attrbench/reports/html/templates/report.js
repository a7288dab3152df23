"use strict";
// Everything from a record or a data set reaches the page as text (textContent, attributes), never as markup.

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function sortable(table) {
  const buttons = [...table.querySelectorAll("thead button")];
  const body = table.tBodies[0];
  const value = (row, column) => {
    const text = row.cells[column].dataset.v;
    return text === undefined || text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  for (const button of buttons) {
    const heading = button.parentElement;
    button.addEventListener("click", () => {
      const column = heading.cellIndex;
      const was = heading.getAttribute("aria-sort");
      const descending = was === "none" ? "first" in button.dataset : was === "ascending";
      for (const other of buttons) other.parentElement.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...body.rows].sort((one, two) => {
        const [a, b] = [value(one, column), value(two, column)];
        if (a === null || b === null) return (a === null) - (b === null);
        return descending ? compare(b, a) : compare(a, b);
      });
      body.append(...rows);
    });
  }
}

function filterable(form) {
  const rows = [...document.getElementById(form.dataset.table).querySelectorAll("tbody tr")];
  const [text, front] = form.querySelectorAll("input");
  const status = form.querySelector("[role=status]");
  const apply = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let seen = 0;
    for (const row of rows) {
      const label = row.querySelector("th").textContent.toLowerCase();
      row.hidden = !words.every((word) => label.includes(word)) || (front.checked && !("pareto" in row.dataset));
      seen += !row.hidden;
    }
    status.textContent = `${seen} of ${rows.length} runs`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}

function gallery(root) {
  const data = JSON.parse(document.getElementById(root.dataset.source).textContent);
  const [select, search] = [root.querySelector("select"), root.querySelector("input")];
  const [query, answers, about] = ["query", "answers", "about"].map((name) => root.querySelector(`.${name}`));
  function picture(entry, alt) {
    if (!entry) return make("span", { className: "nothing", role: "img", ariaLabel: alt }, "no picture");
    const image = make("img", { alt, loading: "lazy", decoding: "async" });
    image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth <= 32));
    image.src = data.pictures[entry[0]];
    return image;
  }
  const words = (...parts) => parts.filter(Boolean).join(", ");
  const told = (group, caption, name) => words(group && `group ${group}`, name, caption);
  const alikeOf = (run, place, index) => run.alike?.[place][index] ?? [];
  const shows = (run, place, id) => run.ids[place].some((item, index) =>
    item === id || alikeOf(run, place, index).some((copy) => copy[1] === id));

  function also(run, place, id) {
    const others = data.runs.filter((other) => other !== run && shows(other, place, id)).map((other) => other.label);
    if (data.runs.length === 1) return "";
    if (!others.length) return "Shown nowhere else for this query.";
    return `Also shown: ${others.slice(0, 4).join("; ")}${others.length > 4 ? ` and ${others.length - 4} more` : ""}.`;
  }

  const short = (value) => value && Math.abs(value) < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));

  function answer(run, place, index, asked) {
    const id = run.ids[place][index];
    const rank = run.ranks?.[place][index] ?? index + 1;
    const alike = alikeOf(run, place, index);
    const [power, ...scores] = run.scores[place];
    const score = scores[index] ?? null;
    const entry = data.items[id];
    const [, group, caption, name] = entry ?? [];
    const known = asked[1] && entry;
    const verdict = !known ? "unknown" : group === asked[1] ? "right" : "wrong";
    const text = { right: "group of the query", wrong: "another group", unknown: "" }[verdict];
    const mark = { right: "✓", wrong: "✗", unknown: "" }[verdict];
    const shown = score === null ? "" : short(score * 10 ** power);
    const same = alike.length && `nearly the same: ${alike.map(([at, item]) => `item ${item} at rank ${at}`).join(", ")}`;
    const line = words(`rank ${rank}`, shown && `score ${shown}`, `item ${id}`, text, told(group, caption, name), same);
    const copies = alike.length ? `×${alike.length + 1}` : "";
    const under = make("span", { ariaHidden: "true", className: "words", dir: "auto" },
      told(group, caption, name || `item ${id}`));
    const button = make("button", { type: "button", className: `picture ${verdict}`, tabIndex: -1 },
      picture(entry, line),
      make("span", { ariaHidden: "true" }, [rank, mark, copies].filter(Boolean).join(" ")),
      make("span", { ariaHidden: "true", className: "score" }, shown),
      ...(root.matches(".told") ? [under] : []));
    button.addEventListener("focus", () => {
      about.textContent = `${run.label}: ${line}. ${also(run, place, id)}`;
      answers.querySelector("button[tabindex='0']")?.setAttribute("tabindex", "-1");
      button.tabIndex = 0;
    });
    return make("li", {}, button);
  }

  function draw() {
    const place = select.selectedIndex;
    const asked = data.queries[select.value];
    const wanted = search ? search.value.toLowerCase().split(/\s+/) : [];
    const runs = data.runs.filter((run) => wanted.every((word) => run.label.toLowerCase().includes(word)));
    query.replaceChildren(picture(asked, `query ${select.value}`),
      make("figcaption", { dir: "auto" }, words(`query ${select.value}`, told(...asked.slice(1)))));
    answers.replaceChildren(...runs.map((run) => {
      const pictures = (run.ids[place] ?? []).map((_, index) => answer(run, place, index, asked));
      const right = pictures.filter((item) => item.querySelector(".right")).length;
      const count = asked[1] && pictures.length ? `${right} of ${pictures.length}` : "";
      const list = pictures.length ? make("ol", {}, ...pictures) : make("p", {}, "no ranking of this query");
      return make("section", {}, make("h4", {}, run.label, make("small", {}, count)), list);
    }));
    answers.querySelector("button")?.setAttribute("tabindex", "0");
    about.textContent = runs.length ? "Choose a picture to read about it." : "No method has this in its name.";
  }

  root.addEventListener("keydown", (event) => {
    if (!event.target.matches(".picture")) return;
    const lists = [...answers.querySelectorAll("ol")].map((list) => [...list.querySelectorAll("button")]);
    const row = lists.findIndex((list) => list.includes(event.target));
    const column = lists[row].indexOf(event.target);
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    const [down, right] = moves[event.key] ?? [0, 0];
    if (!down && !right) return;
    event.preventDefault();
    const list = lists[row + down];
    list?.[Math.min(column + right, down ? list.length - 1 : Infinity)]?.focus();
  });
  const step = (by) => {
    select.selectedIndex = Math.min(Math.max(select.selectedIndex + by, 0), select.length - 1);
    draw();
  };
  root.querySelector(".previous").addEventListener("click", () => step(-1));
  root.querySelector(".next").addEventListener("click", () => step(1));
  root.addEventListener("input", draw);
  draw();
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("form.filter").forEach(filterable);
document.querySelectorAll(".gallery").forEach(gallery);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((item) => (item.open = true)));
