// A click on a column header sorts by it; a second click reverses the order.
document.querySelectorAll("th[scope=col]").forEach((head) => {
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const at = head.cellIndex, down = head.dataset.order !== "down";
    const key = (row) => row.cells[at].firstChild?.textContent.trim() ?? "";
    const number = (text) => (text === "" || text === "–" ? NaN : Number(text));
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)], [p, q] = [number(x), number(y)];
      if (isNaN(p) && isNaN(q)) return x.localeCompare(y);
      if (isNaN(p) || isNaN(q)) return isNaN(p) - isNaN(q);
      return down ? q - p : p - q;
    });
    head.closest("tr").querySelectorAll("th").forEach((other) => delete other.dataset.order);
    head.dataset.order = down ? "down" : "up";
    body.append(...rows);
  });
});
