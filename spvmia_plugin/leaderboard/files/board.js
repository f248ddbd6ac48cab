"use strict";
// Sorting and filters. Their state stands in the address behind the "#", so that a link opens the board as it was:
// #text=lora&method=full&base=org%2Fbase&ranked=1&sort=1.4.d (table, column, descending).
const tables = [...document.querySelectorAll("table.sortable")];
const filters = [...document.querySelectorAll(".tools [name]:not([name=sort])")];
const counted = document.getElementById("counted");
const opposite = { ascending: "descending", descending: "ascending" };
const headingsOf = (table) => [...table.tHead.rows[0].cells];
const rowsOf = (table) => [...table.tBodies[0].rows];
const firstOrder = new Map(tables.map((table) => [table, rowsOf(table)]));
let announces = false;

// Cells without a value come last in either direction.
const compare = (one, other, direction) => {
  if (one === "" || other === "") return (one === "") - (other === "");
  const numbers = [Number(one), Number(other)];
  const order = numbers.some(Number.isNaN) ? one.localeCompare(other) : numbers[0] - numbers[1];
  return direction * order;
};

const sort = (table, column, order) => {
  const headings = headingsOf(table);
  for (const other of headings) other.removeAttribute("aria-sort");
  headings[column].setAttribute("aria-sort", order);
  const direction = order === "ascending" ? 1 : -1;
  const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  const rows = rowsOf(table).map((row, place) => ({ row, place, value: key(row) }));
  rows.sort((a, b) => compare(a.value, b.value, direction) || a.place - b.place);
  table.tBodies[0].append(...rows.map(({ row }) => row));
  const chosen = document.querySelector(`select[name=sort][data-table="${table.dataset.table}"]`);
  chosen.selectedIndex = column;
  const name = headings[column].querySelector("button").textContent.trim();
  if (announces) document.getElementById(`says-${table.dataset.table}`).textContent = `Sorted by ${name}, ${order}.`;
};

const value = (filter) => (filter.type === "checkbox" ? (filter.checked ? "1" : "") : filter.value.trim());

const filter = () => {
  const asked = Object.fromEntries(filters.map((each) => [each.name, value(each)]));
  const words = asked.text.toLowerCase().split(/\s+/);
  let all = 0, left = 0;
  for (const table of tables) {
    const drawn = table.closest("section");
    for (const row of rowsOf(table)) {
      const text = row.textContent.toLowerCase();
      const fits = words.every((word) => text.includes(word))
        && (!asked.method || row.dataset.method === asked.method)
        // A base belongs to its fine-tunes.
        && (!asked.base || asked.base === (row.dataset.base ?? row.querySelector("th bdi").textContent))
        && (!asked.ranked || !row.classList.contains("marked"));
      row.hidden = !fits;
      all += 1;
      left += fits;
      for (const mark of drawn.querySelectorAll(`svg [data-row="${row.dataset.row}"]`)) mark.classList.toggle("out", !fits);
    }
  }
  counted.textContent = left === all ? `${all} rows` : `${left} of ${all} rows`;
};

const keep = () => {
  const state = new URLSearchParams();
  for (const each of filters) if (value(each)) state.set(each.name, value(each));
  for (const table of tables) {
    const column = headingsOf(table).findIndex((heading) => heading.hasAttribute("aria-sort"));
    const order = headingsOf(table)[column].getAttribute("aria-sort");
    if (column || order !== "ascending") state.append("sort", `${table.dataset.table}.${column + 1}.${order[0]}`);
  }
  history.replaceState(null, "", `#${state}`);
};

const restore = () => {
  const hash = location.hash.slice(1);
  if (hash && !hash.includes("=")) return;  // a link to a place of the page
  const state = new URLSearchParams(hash);
  for (const each of filters) {
    const told = state.get(each.name) ?? "";
    if (each.type === "checkbox") each.checked = told === "1";
    else each.value = told;
    if (each.selectedIndex === -1) each.value = "";  // a choice that this board has not
  }
  for (const table of tables) {
    table.tBodies[0].append(...firstOrder.get(table));
    const told = state.getAll("sort").map((each) => each.split(".")).find(([number]) => number === table.dataset.table);
    const column = told ? Number(told[1]) - 1 : 0;
    const known = Boolean(told && headingsOf(table)[column]);
    if (known || headingsOf(table)[0].getAttribute("aria-sort") !== "ascending") {
      sort(table, known ? column : 0, known && told[2] === "d" ? "descending" : "ascending");
    }
  }
  filter();
};

for (const table of tables) {
  headingsOf(table).forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      announces = true;
      sort(table, column, opposite[heading.getAttribute("aria-sort")] ?? heading.dataset.first);
      keep();
    });
  });
}
for (const each of filters) each.addEventListener("input", () => { filter(); keep(); });
for (const each of document.querySelectorAll("select[name=sort]")) {
  each.addEventListener("input", () => {
    const table = tables.find((other) => other.dataset.table === each.dataset.table);
    announces = true;
    sort(table, each.selectedIndex, headingsOf(table)[each.selectedIndex].dataset.first);
    keep();
  });
}
addEventListener("hashchange", restore);
restore();
