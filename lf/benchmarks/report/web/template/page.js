"use strict";
// sort a table by a column: click or press Enter on its heading; filter it by the words of the field above
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const falls = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const body = table.tBodies[0];
    const value = (row) => {
      const cell = row.cells[column];
      if (cell.dataset.number !== undefined) return cell.dataset.number === "" ? NaN : Number(cell.dataset.number);
      const number = Number(cell.textContent);
      return Number.isNaN(number) ? cell.textContent : number;
    };
    const sign = falls ? -1 : 1;
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (typeof x === "string" || typeof y === "string") return sign * String(x).localeCompare(String(y));
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // without a value: last
      return sign * (x - y);
    };
    body.append(...[...body.rows].sort(order));
  }));
}
for (const field of document.querySelectorAll("input[data-filter]")) {
  const table = document.getElementById(field.dataset.filter);
  const count = document.querySelector(`[data-count="${field.dataset.filter}"]`);
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${table.tBodies[0].rows.length} runs`;
  };
  field.addEventListener("input", show);
  show();
}
