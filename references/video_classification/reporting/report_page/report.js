"use strict";
// Sorts and filters the tables, and lists the videos of a confusion. Text is inserted as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const LISTED = 500; // videos of one cell

// Tables: a button in a heading sorts by its column, up and down in turn.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const direction = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", direction);
      sortRows(table.tBodies[0], column, direction === "ascending" ? 1 : -1);
    });
  });
}

function sortRows(body, column, sign) {
  const keyOf = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const isEmpty = (key) => key === "";
  const compare = (a, b) => {
    if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b); // rows without a value stay last
    const difference = Number(a) - Number(b);
    return sign * (Number.isNaN(difference) ? a.localeCompare(b) : difference);
  };
  const rows = [...body.rows].map((row) => [keyOf(row), row]);
  rows.sort((a, b) => compare(a[0], b[0]));
  body.append(...rows.map((pair) => pair[1]));
}

// The field above a table hides the rows that do not contain all of its words.
for (const field of document.querySelectorAll("input[data-filters]")) {
  const rows = [...document.getElementById(field.dataset.filters).tBodies[0].rows];
  const counter = document.getElementById(`${field.dataset.filters}-count`);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    counter.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  });
}

// The videos of a cell of the confusion matrix.
const panel = document.getElementById("cell-videos");

function showVideos(truth, prediction) {
  const videos = data.videos.filter((video) => video[1] === truth && video[2] === prediction);
  const title = document.createElement("h3");
  title.textContent =
    truth === prediction
      ? `${data.classes[truth]}: predicted right, ${videos.length}`
      : `${data.classes[truth]}, predicted as ${data.classes[prediction]}: ${videos.length}`;
  const list = document.createElement("ul");
  for (const [path, , , probability, rank] of videos.slice(0, LISTED)) {
    const item = document.createElement("li");
    const place = rank === 1 ? "" : `, the true class ranks ${rank}`;
    item.textContent = `${path} (${(100 * probability).toFixed(1)} %${place})`;
    list.append(item);
  }
  if (videos.length > LISTED) {
    const more = document.createElement("li");
    more.textContent = `and ${videos.length - LISTED} more, in predictions.csv`;
    list.append(more);
  }
  panel.replaceChildren(title, list);
  panel.hidden = false;
}

const matrix = document.getElementById("matrix");
const cells = [...matrix.querySelectorAll("button")];
const hint = document.getElementById("matrix-hint");
const place = (cell) => [cell.closest("tr").rowIndex, cell.closest("td").cellIndex];

function describe(cell) {
  const [truth, prediction] = [Number(cell.dataset.truth), Number(cell.dataset.prediction)];
  hint.textContent = `${data.classes[truth]} → ${data.classes[prediction]}: ${cell.textContent}`;
}

// The matrix is one stop of the Tab key; the arrow keys move to the next cell that has videos.
function nextCell(from, rowStep, columnStep) {
  const [row, column] = place(from);
  let nearest = null;
  for (const cell of cells) {
    const [r, c] = place(cell);
    const along = rowStep ? (r - row) * rowStep : (c - column) * columnStep;
    const aside = rowStep ? Math.abs(c - column) : Math.abs(r - row);
    const distance = along + 100 * aside;
    if (along > 0 && (nearest === null || distance < nearest.distance)) nearest = { cell, distance };
  }
  return nearest?.cell;
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
for (const cell of cells) {
  cell.addEventListener("mouseenter", () => describe(cell));
  cell.addEventListener("focus", () => describe(cell));
  cell.addEventListener("click", () => {
    cells.forEach((other) => other.classList.toggle("chosen", other === cell));
    showVideos(Number(cell.dataset.truth), Number(cell.dataset.prediction));
  });
  cell.addEventListener("keydown", (event) => {
    const next = ARROWS[event.key] && nextCell(cell, ...ARROWS[event.key]);
    if (!next) return;
    event.preventDefault();
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

for (const link of document.querySelectorAll("button[data-confusion]")) {
  link.addEventListener("click", () => {
    const [truth, prediction] = link.dataset.confusion.split(" ").map(Number);
    showVideos(truth, prediction);
    panel.focus();
    panel.scrollIntoView({ block: "nearest" });
  });
}

// What is folded is printed too.
for (const [event, open] of [["beforeprint", true], ["afterprint", false]]) {
  window.addEventListener(event, () => {
    for (const folded of document.querySelectorAll(open ? "details:not([open])" : "details[data-printed]")) {
      folded.open = open;
      folded.toggleAttribute("data-printed", open);
    }
  });
}

const zoom = document.getElementById("zoom");
function setZoom() {
  matrix.style.setProperty("--cell", `${zoom.value}px`);
  matrix.classList.toggle("small", Number(zoom.value) < 18); // too small for figures
}
zoom.addEventListener("input", setZoom);
if (window.innerWidth < 640) zoom.value = Math.max(zoom.value, 20); // large enough for a finger
setZoom();
