"use strict";
// Sorts a table by the column whose heading was pressed. Cells without a value come last in either direction.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const said = document.getElementById(table.dataset.says);
  const compare = (one, other, direction) => {
    if (one === "" || other === "") return (one === "") - (other === "");
    const numbers = [Number(one), Number(other)];
    const order = numbers.some(Number.isNaN) ? one.localeCompare(other) : numbers[0] - numbers[1];
    return direction * order;
  };
  headings.forEach((heading, column) => {
    const button = heading.querySelector("button");
    button.addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      const first = heading.dataset.first || "ascending";
      const opposite = { ascending: "descending", descending: "ascending" };
      const next = now ? opposite[now] : first;
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", next);
      const direction = next === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
      const rows = [...body.rows].map((row, place) => ({ row, place, value: key(row) }));
      rows.sort((a, b) => compare(a.value, b.value, direction) || a.place - b.place);
      body.append(...rows.map(({ row }) => row));
      said.textContent = `Sorted by ${button.textContent.trim()}, ${next}.`;
    });
  });
}
