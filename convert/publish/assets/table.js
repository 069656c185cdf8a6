// Sorts and filters the table of modules. Without this script it stands sorted by accuracy.
"use strict";

const table = document.getElementById("table");
const body = table.tBodies[0];
const rows = [...body.rows];
const headers = [...table.tHead.rows[0].cells];
const filters = document.getElementById("filters");
const count = document.getElementById("count");
const marks = [...document.querySelectorAll(".chart a")];

function value(row, column) {
  const text = row.cells[column].textContent.trim();
  return headers[column].classList.contains("number") ? parseFloat(text) : text;
}

function compare(a, b) {
  if (typeof a === "string") return a < b ? -1 : a > b ? 1 : 0;
  return a - b;
}

function sort(column) {
  const numbers = headers[column].classList.contains("number");
  const now = headers[column].getAttribute("aria-sort");
  // Numbers begin with the largest, names with the first.
  const descending = now ? now === "ascending" : numbers;
  for (const header of headers) header.removeAttribute("aria-sort");
  headers[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  rows.sort((one, other) => {
    const [a, b] = [value(one, column), value(other, column)];
    // Rows without a number come last, either way.
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return descending ? compare(b, a) : compare(a, b);
  });
  body.append(...rows);
}

function filter() {
  const wanted = Object.fromEntries(new FormData(filters));
  const words = wanted.text.toLowerCase().split(/\s+/);
  const names = new Set();
  let shown = 0;
  for (const row of rows) {
    const { name, family, kind, quantized, size } = row.dataset;
    const text = `${name}/${kind}`.toLowerCase();
    row.hidden =
      !words.every((word) => text.includes(word)) ||
      Object.entries({ family, kind, quantized, size }).some(
        ([key, has]) => wanted[key] && wanted[key] !== has,
      );
    if (!row.hidden) {
      shown += 1;
      names.add(name);
    }
  }
  for (const mark of marks) mark.classList.toggle("faint", !names.has(mark.dataset.name));
  count.textContent =
    shown === rows.length ? `${shown} modules` : `${shown} of ${rows.length} modules`;
}

headers.forEach((header, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...header.firstElementChild.childNodes);
  button.addEventListener("click", () => sort(column));
  header.replaceChildren(button);
});
filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
// The fields are empty only after the event.
filters.addEventListener("reset", () => setTimeout(filter));
// A browser that comes back to the page may have filled the fields.
window.addEventListener("pageshow", filter);
filters.hidden = false;
