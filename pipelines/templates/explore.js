{% include "_elements.js" %}
// The table of latents, with search and sorting; all cells are set as text. Arrow keys go to the neighbouring latents.
(() => {
  const follow = (rel) => document.querySelector(`link[rel=${rel}]`)?.href;
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || /INPUT|TEXTAREA/.test(event.target.tagName)) return;
    const to = { ArrowLeft: follow("prev"), ArrowRight: follow("next") }[event.key];
    if (to) location.href = to;
  });

  const place = document.querySelector("#latents");
  if (!place || typeof TABLE === "undefined") return;
  const STEP = 200, { columns, rows } = TABLE;
  const search = document.querySelector("#search"), count = document.querySelector("#count"), more = document.querySelector("#more");
  const given = new URLSearchParams(location.hash.slice(1));
  const state = { query: given.get("q") ?? "", by: Number(given.get("by") ?? -1), down: given.has("down"), most: STEP };

  const share = (x) => (x === 0 ? "0" : `${(100 * x).toFixed(Math.min(6, Math.max(0, 1 - Math.floor(Math.log10(100 * x) + 1e-9))))}%`);
  const written = (x, form) => (x === null ? "\u2013" : form === "text" ? x : form === "percent" ? share(x) : digits(x));
  const sizes = columns.map(([, , , bar], i) => (!bar ? 0 : Math.max(...rows.map((r) => Math.abs(r[i + 2] ?? 0)), 0)));
  const texts = rows.map((row) => [row[0], ...columns.flatMap(([, form], i) => (form === "text" ? [row[i + 2]] : []))].join("\n").toLowerCase());

  const table = make("table"), head = table.createTHead().insertRow(), body = table.createTBody();
  const heads = [["latent", "text", "its number; a link where it has a page"], ...columns].map(([name, form, meaning], i) => {
    const th = make("th", name, i === 0 ? "name" : form === "text" ? "text" : "");
    th.scope = "col"; th.title = meaning; th.tabIndex = 0;
    const turn = () => { state.down = state.by === i - 1 ? !state.down : form !== "text"; state.by = i - 1; draw(); };
    th.addEventListener("click", turn);
    th.addEventListener("keydown", (event) => { if (event.key === "Enter") turn(); });
    head.append(th);
    return th;
  });
  const frame = make("div", undefined, "scroll");
  frame.append(table);
  place.append(frame);

  const chosen = () => {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.map((row, i) => [row, i]).filter(([, i]) => words.every((word) => texts[i].includes(word)));
    const at = state.by + 2;
    if (state.by < 0) return state.down ? found.reverse() : found;
    return found.sort(([a, i], [b, j]) => {
      const x = a[at], y = b[at];
      if (x === null || y === null || x === "" || y === "") return (x === null || x === "") - (y === null || y === "") || i - j;
      const order = typeof x === "string" ? x.localeCompare(y) : x - y;
      return (state.down ? -order : order) || i - j;
    });
  };
  const line = ([row]) => {
    const tr = make("tr"), name = make("th", undefined, "name");
    name.scope = "row";
    const link = row[1] ? Object.assign(make("a", row[0]), { href: `latents/${row[1]}` }) : make("span", row[0], "plain");
    name.append(link);
    tr.append(name);
    columns.forEach(([, form], i) => {
      const value = row[i + 2], cell = make("td", undefined, form === "text" ? "text" : sizes[i] ? "scale" : "");
      const text = make("span", written(value, form), form === "text" && value ? "word" : "");
      if (value && sizes[i]) cell.style.setProperty("--w", `${(100 * Math.abs(value)) / sizes[i]}%`);
      cell.append(text);
      tr.append(cell);
    });
    return tr;
  };
  const draw = () => {
    const found = chosen();
    heads.forEach((th, i) => { if (i === state.by + 1) th.dataset.order = state.down ? "down" : "up"; else delete th.dataset.order; });
    body.replaceChildren(...found.slice(0, state.most).map(line));
    count.textContent = found.length === rows.length ? `${rows.length} latents` : `${found.length} of ${rows.length} latents`;
    more.hidden = found.length <= state.most;
    const kept = new URLSearchParams({ ...(state.query && { q: state.query }), ...(state.by >= 0 && { by: state.by }), ...(state.down && { down: "" }) });
    try { history.replaceState(null, "", `#${kept}`); } catch { /* some browsers refuse it for files */ }
  };
  search.value = state.query;
  search.addEventListener("input", () => { state.query = search.value; state.most = STEP; draw(); });
  more.addEventListener("click", () => { state.most += 5 * STEP; draw(); });
  draw();
})();
