"use strict";

(() => {
  const PAGE_ROWS = 25;

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  /* Figures: one attack stands out in the curves, and the pictures about single attacks show that one. */
  function chooser(section) {
    const select = section.querySelector("select.attack");
    if (!select) return;
    const key = section.querySelector(".tools .drawn-as"); // a line like the curve of the one that was chosen
    const choose = () => {
      let drawn = null;
      for (const group of section.querySelectorAll("[data-attack]")) {
        const chosen = group.dataset.attack === select.value;
        group.classList.toggle("chosen", chosen);
        if (chosen && group.classList.contains("curve")) {
          group.parentNode.append(group);
          drawn = group.querySelector("path").getAttribute("class");
        }
      }
      key.hidden = drawn === null;
      if (drawn !== null) key.querySelector("path").setAttribute("class", drawn);
      for (const figure of section.querySelectorAll("figure[data-attacks]")) {
        figure.hidden = !figure.dataset.attacks.split(" ").includes(select.value);
      }
    };
    select.closest(".tools").hidden = false;
    select.addEventListener("change", choose);
    choose();
  }

  /* The table of attacks, sorted by the exact values of its cells: those of one attacker stay together, in the order
     of the first of them, and the blind baseline stays last. */
  function sortable(table) {
    const families = () => [...table.tBodies].filter((body) => !body.classList.contains("blind"));
    const rows = (body) => [...body.rows].filter((row) => !row.classList.contains("family"));
    table.querySelectorAll("thead th[data-column]").forEach((head) => {
      const column = Number(head.dataset.column);
      const button = element("button", { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
        table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", next);
        const key = (row) => {
          const value = row.cells[column].querySelector("data");
          return value ? Number(value.value) : NaN;
        };
        const text = (row) => row.cells[column].textContent.trim();
        const numeric = head.classList.contains("n");
        const sign = next === "ascending" ? 1 : -1;
        const order = (a, b) => (numeric ? ordered(key(a), key(b), sign) : sign * text(a).localeCompare(text(b)));
        for (const body of families()) rows(body).sort(order).forEach((row) => body.append(row));
        const last = table.querySelector("tbody.blind");
        families().sort((a, b) => order(rows(a)[0], rows(b)[0])).forEach((body) => last.before(body));
      });
    });
  }

  const of = (count, all) => `${count.toLocaleString("en")} of ${all.toLocaleString("en")}`;

  /* NaN goes last in either direction. */
  function ordered(a, b, sign) {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return sign * (a - b);
  }

  /* The exposed records: drawn page by page from the data, so that tens of thousands open at once. */
  class Records {
    constructor(section, data) {
      this.data = data;
      this.section = section;
      this.table = section.querySelector("table");
      this.body = this.table.tBodies[0];
      this.filter = section.querySelector("input[type=search]");
      this.only = section.querySelector("input[type=checkbox]");
      this.attack = section.querySelector("select");
      this.status = section.querySelector("[role=status]");
      this.sort = { column: "exposed", sign: 1 };
      this.page = 0;
      this.opened = new Set();
      this.haystack = data.ids.map((id, i) => `${id}\n${data.texts ? data.texts[i] : ""}`.toLowerCase());
      section.querySelectorAll(".tools, .pager").forEach((part) => { part.hidden = false; });
      this.listen();
      this.update();
    }

    listen() {
      const again = () => { this.page = 0; this.update(); };
      this.filter.addEventListener("input", again);
      this.only.addEventListener("change", again);
      this.attack.addEventListener("change", again);
      const [previous, next] = this.section.querySelectorAll(".pager button");
      this.buttons = { previous, next };
      previous.addEventListener("click", () => { this.page -= 1; this.update(); });
      next.addEventListener("click", () => { this.page += 1; this.update(); });
      this.section.querySelector(".csv").addEventListener("click", () => this.save());
      for (const head of this.table.querySelectorAll("thead th")) {
        const button = element("button", { type: "button" });
        button.append(...head.childNodes);
        head.append(button);
        button.addEventListener("click", () => {
          const column = head.dataset.sort;
          this.sort = { column, sign: this.sort.column === column ? -this.sort.sign : 1 };
          again();
        });
      }
      this.body.addEventListener("click", (event) => {
        const button = event.target.closest(".open");
        if (button) this.toggle(Number(button.dataset.row), button);
      });
    }

    key(row) {
      const { ids, texts, lowest, best, attacks, p } = this.data;
      const chosen = attacks[this.attack.value];
      const missing = (value) => (value === null ? NaN : value);
      return {
        exposed: () => row, // the data are in this order
        id: () => ids[row],
        text: () => (texts ? texts[row] : ""),
        lowest: () => missing(lowest[row]),
        best: () => (best[row] === null ? "" : attacks[best[row]].title),
        rank: () => missing(chosen.rank[row]),
        score: () => (chosen.score[row] === null ? NaN : -Number(chosen.score[row])), // the highest first
        p: () => (p.values[row] === null ? NaN : Number(p.values[row])),
      }[this.sort.column]();
    }

    update() {
      const words = this.filter.value.toLowerCase();
      const { zero, ids } = this.data;
      const rows = [];
      for (let row = 0; row < ids.length; row += 1) {
        if ((!this.only.checked || zero[row]) && this.haystack[row].includes(words)) rows.push([this.key(row), row]);
      }
      const { sign, column } = this.sort;
      rows.sort(([a, i], [b, j]) => {
        const found = typeof a === "number" ? ordered(a, b, sign) : sign * (a < b ? -1 : a > b ? 1 : 0);
        return found || i - j;
      });
      this.rows = rows.map((pair) => pair[1]);
      const pages = Math.max(1, Math.ceil(this.rows.length / PAGE_ROWS));
      this.page = Math.min(Math.max(this.page, 0), pages - 1);
      const from = this.page * PAGE_ROWS;
      const shown = this.rows.slice(from, from + PAGE_ROWS);
      this.body.replaceChildren(...shown.flatMap((row) => this.draw(row)));
      for (const head of this.table.querySelectorAll("thead th")) {
        if (head.dataset.sort === column) head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      }
      this.table.querySelectorAll(".of-attack").forEach((cell) => {
        cell.textContent = this.data.attacks[this.attack.value].title;
      });
      this.buttons.previous.disabled = this.page === 0;
      this.buttons.next.disabled = this.page >= pages - 1;
      const range = shown.length ? `${from + 1} to ${from + shown.length} of ${this.rows.length}` : "No record matches";
      this.status.textContent = `${range}${this.rows.length < ids.length ? ` (${ids.length} in all)` : ""}, page ${this.page + 1} of ${pages}`;
    }

    draw(row) {
      const { ids, lowest, best, attacks, p } = this.data;
      const chosen = attacks[this.attack.value];
      const open = this.opened.has(row);
      const parts = ids[row].split(/(?<=:)/); // a long id breaks after a file's name, not within a number
      const name = element("bdi", { dir: "ltr" }, ...parts.flatMap((part, k) => (k ? [element("wbr"), part] : [part])));
      const button = element("button", { type: "button", class: "open", "data-row": row, "aria-expanded": open }, name);
      const cells = [element("td", { class: "id" }, button)];
      if (this.data.texts) cells.push(element("td", { class: "text", dir: "auto" }, this.text(row)));
      cells.push(
        element("td", { class: "n" }, lowest[row] === null ? "–" : of(lowest[row], attacks[best[row]].others)),
        element("td", {}, best[row] === null ? "–" : attacks[best[row]].title),
        element("td", { class: "n" }, chosen.rank[row] === null ? "–" : of(chosen.rank[row], chosen.scored)),
        element("td", { class: "n" }, chosen.score[row] === null ? "–" : chosen.score[row]),
        ...(p ? [element("td", { class: "n" }, p.values[row] ?? "–")] : []),
      );
      const drawn = [element("tr", {}, ...cells)];
      if (open) drawn.push(this.details(row, cells.length));
      return drawn;
    }

    /* The first words of a text, that open to all that the page has of it. */
    text(row) {
      const characters = Array.from(this.data.texts[row]);
      const [head, rest] = [characters.slice(0, this.data.heads[row]), characters.slice(this.data.heads[row])].map((part) => part.join(""));
      return rest ? element("details", {}, element("summary", {}, head), element("span", {}, rest)) : head;
    }

    details(row, span) {
      const lines = this.data.attacks.map((attack) => {
        const known = attack.score[row] !== null;
        return element("tr", {},
          element("th", { scope: "row" }, attack.title),
          element("td", { class: "n" }, known ? attack.score[row] : "–"),
          element("td", { class: "n" }, known ? of(attack.rank[row], attack.scored) : "–"),
          element("td", { class: "n" }, known ? of(attack.higher[row], attack.others) : "–"));
      });
      const head = ["Attack", "Score", "Rank among all", "Others as high"].map((word, i) =>
        element("th", { scope: "col", class: i ? "n" : null }, word));
      const caption = element("caption", {}, "Under every attack: ", element("bdi", { dir: "ltr" }, this.data.ids[row]));
      const table = element("table", {}, caption, element("thead", {}, element("tr", {}, ...head)),
        element("tbody", {}, ...lines));
      return element("tr", { class: "more" }, element("td", { colspan: span }, table));
    }

    toggle(row, button) {
      const line = button.closest("tr");
      if (this.opened.delete(row)) {
        line.nextElementSibling.remove();
      } else {
        this.opened.add(row);
        line.after(this.details(row, line.cells.length));
      }
      button.setAttribute("aria-expanded", this.opened.has(row));
    }

    save() {
      const { ids, texts, lowest, best, attacks, p } = this.data;
      const head = ["record", ...(texts ? ["text"] : []), "others_as_high", "others", "under_attack", ...(p ? ["p_value"] : []),
        ...attacks.flatMap((attack) => [`${attack.name}_score`, `${attack.name}_rank`])];
      const lines = this.rows.map((row) => [
        ids[row], ...(texts ? [texts[row]] : []), lowest[row], best[row] === null ? null : attacks[best[row]].others,
        best[row] === null ? null : attacks[best[row]].name, ...(p ? [p.values[row]] : []),
        ...attacks.flatMap((attack) => [attack.score[row] === null ? null : Number(attack.score[row]), attack.rank[row]]),
      ]);
      const text = [head, ...lines].map((line) => line.map(cell).join(",")).join("\r\n");
      const link = element("a", { download: "exposure.csv", href: URL.createObjectURL(new Blob([text], { type: "text/csv" })) });
      link.click();
      URL.revokeObjectURL(link.href);
    }
  }

  /* One cell of a CSV file. Words that a spreadsheet would take for a formula get an apostrophe. */
  function cell(value) {
    if (value === null) return "";
    if (typeof value === "number") return String(value);
    const text = /^\s*[=+\-@]/.test(value) ? `'${value}` : value;
    return `"${text.replaceAll('"', '""')}"`;
  }

  document.querySelectorAll(".audit").forEach((audit) => {
    chooser(audit);
    audit.querySelectorAll("table.sortable").forEach(sortable);
    const data = audit.querySelector("script[type='application/json']");
    if (data) new Records(audit.querySelector(".records"), JSON.parse(data.textContent));
  });
})();
