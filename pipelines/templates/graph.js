// Highlights a node with its edges, and lists what comes in and goes out; a click holds it, Escape lets go.
(() => {
  const { nodes, edges } = GRAPH, svg = document.querySelector("svg.graph"), panel = document.querySelector("#panel");
  if (!svg || !panel) return;
  const before = panel.innerHTML;
  svg.parentElement.scrollLeft = svg.clientWidth;  // the target is on the right
  const drawn = [...svg.querySelectorAll(".node")], lines = new Map([...svg.querySelectorAll(".edge")].map((e) => [Number(e.dataset.e), e]));
  let held = -1;
  const links = (title, found, other) => {
    if (!found.length) return [];
    const list = make("ol", undefined, "links"), most = Math.max(...found.map((e) => Math.abs(e[2] ?? 0))) || 1;
    for (const edge of found.slice(0, 14)) {
      const line = make("li", undefined, edge[2] < 0 ? "down" : "");
      line.style.setProperty("--w", `${(100 * Math.abs(edge[2] ?? 0)) / most}%`);
      line.append(make("span", nodes[edge[other]].name), make("b", digits(edge[2])));
      line.addEventListener("click", (event) => { event.stopPropagation(); hold(edge[other]); });
      list.append(line);
    }
    const rest = found.length > 14 ? [make("p", `and ${found.length - 14} smaller ones`, "note")] : [];
    return [make("h3", title), list, ...rest];
  };
  const describe = (i) => {
    const node = nodes[i], facts = make("dl");
    const rows = [["token", `${node.token.trim()} (position ${node.position})`], [node.kind === "latent" ? "activation" : node.kind === "target" ? "value" : "norm", digits(node.value)]];
    if (node.kind !== "target") rows.push([SCORE, digits(node.score)], ["total effect", digits(node.effect)]);
    if (!node.followed) rows.push(["inputs", "not followed"]);
    for (const [name, value] of rows) facts.append(make("dt", name), make("dd", value));
    const order = (a, b) => Math.abs(b[2] ?? 0) - Math.abs(a[2] ?? 0);
    const parts = [make("h2", node.name), facts];
    parts.push(...links("from", edges.filter((e) => e[1] === i).sort(order), 0), ...links("to", edges.filter((e) => e[0] === i).sort(order), 1));
    if (node.contexts.length) {
      parts.push(make("h3", "fires most in"));
      for (const context of node.contexts) {
        const line = make("p", undefined, "context");
        for (const [text, shade] of context) line.append(make("span", text, shade ? `s${Math.abs(shade)}${shade < 0 ? " own" : ""}` : ""));
        parts.push(line);
      }
    }
    panel.replaceChildren(...parts);
  };
  const light = (i) => {
    svg.classList.toggle("busy", i >= 0);
    for (const element of [...drawn, ...lines.values()]) element.classList.remove("on", "pinned");
    if (i < 0) { panel.innerHTML = before; return; }
    drawn[i].classList.add("on");
    if (i === held) drawn[i].classList.add("pinned");
    edges.forEach(([a, b], k) => {
      if (a !== i && b !== i) return;
      lines.get(k)?.classList.add("on"); drawn[a].classList.add("on"); drawn[b].classList.add("on");
    });
    describe(i);
  };
  const hold = (i) => {
    held = i; light(i);
    try { history.replaceState(null, "", i >= 0 ? `#n${i}` : location.pathname); } catch { /* some browsers refuse it for files */ }
  };
  drawn.forEach((element, i) => {
    element.addEventListener("mouseenter", () => { if (held < 0) light(i); });
    element.addEventListener("mouseleave", () => { if (held < 0) light(-1); });
    element.addEventListener("click", (event) => { event.stopPropagation(); hold(held === i ? -1 : i); });
    element.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); hold(held === i ? -1 : i); } });
  });
  svg.addEventListener("click", () => hold(-1));
  addEventListener("keydown", (event) => { if (event.key === "Escape") hold(-1); });
  const wanted = Number(location.hash.slice(2));
  if (location.hash.startsWith("#n") && nodes[wanted]) hold(wanted);
})();
