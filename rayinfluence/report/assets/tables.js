// Tables are sorted by a column when its head is pressed: largest first, then the other way.
for (const table of all("table.sortable")) {
  const body = table.tBodies[0];
  all("thead th", table).forEach((head, column) => {
    if (!head.textContent) return; // a button needs a name
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const valueOf = (row) => {
        const cell = row.cells[column];
        const value = cell.dataset.value ?? cell.textContent;
        return value === "" || Number.isNaN(Number(value)) ? value.toLowerCase() : Number(value);
      };
      const compare = (a, b) => {
        const [one, other] = [valueOf(a), valueOf(b)];
        if (typeof one === typeof other) return one < other ? -1 : Number(one > other);
        return typeof one === "string" ? -1 : 1; // what has no number is the least
      };
      const rows = [...body.rows].sort(compare);
      body.append(...(down ? rows.reverse() : rows));
    });
  });
}
