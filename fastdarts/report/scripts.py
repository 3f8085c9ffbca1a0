"""The script of the report: values under the mouse, tables that sort, the player, and a page that follows its run.

Whatever it needs stands in the page, in attributes. Without scripts the page shows the same, but stands still.
"""

# What a chart shows is read back from its lines, by the scale that the chart names.
_HOVER = """
const tip = document.createElement("div");
tip.className = "tip";
tip.setAttribute("role", "status");
tip.hidden = true;
document.body.append(tip);
const said = value => String(Number(value.toPrecision(Math.abs(value) >= 100 ? 5 : 4)));
for (const svg of document.querySelectorAll("svg[data-scale]")) {
  const [x0, x1, left, right, y0, y1, bottom, top] = svg.dataset.scale.split(" ").map(Number);
  const valueAt = y => y0 + (y1 - y0) * (y - bottom) / (top - bottom);
  const epochAt = x => Math.round(right > left ? x0 + (x1 - x0) * (x - left) / (right - left) : x0);
  const series = [...svg.querySelectorAll("[data-name]")].map(shape => {
    const text = shape.getAttribute("d") ?? `M${shape.getAttribute("cx")} ${shape.getAttribute("cy")}`;
    const found = [...text.matchAll(/[ML](-?[\\d.]+) (-?[\\d.]+)/g)];
    const points = found.map(pair => [Number(pair[1]), Number(pair[2])]);
    return {name: shape.dataset.name, colour: shape.getAttribute("stroke") ?? shape.getAttribute("fill"), points};
  });
  const places = [...new Set(series.flatMap(line => line.points.map(point => point[0])))].sort((a, b) => a - b);
  if (!places.length) continue;
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("visibility", "hidden");
  svg.append(cursor);
  let at = places.length - 1;
  const show = (clientX, clientY) => {
    const x = places[at], lines = [];
    for (const line of series) {
      const near = line.points.find(point => Math.abs(point[0] - x) < 0.11);
      if (near) lines.push([line, said(valueAt(near[1])) + (svg.dataset.unit ?? "")]);
    }
    cursor.setAttribute("d", `M${x} ${top}V${bottom}`);
    cursor.setAttribute("visibility", "visible");
    tip.textContent = `${svg.dataset.axis} ${epochAt(x)}`;
    for (const [line, value] of lines) {
      const row = document.createElement("div"), patch = document.createElement("i");
      patch.className = "patch";
      patch.style.background = line.colour;
      row.append(patch, `${line.name} ${value}`);
      tip.append(row);
    }
    tip.hidden = false;
    const width = tip.offsetWidth, height = tip.offsetHeight;
    const beside = clientX + 14 + width > innerWidth ? clientX - width - 14 : clientX + 14;
    tip.style.left = `${Math.max(4, Math.min(beside, innerWidth - width - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(clientY + 14, innerHeight - height - 4))}px`;
  };
  const leave = () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); };
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    at = places.reduce((best, place, k) => Math.abs(place - x) < Math.abs(places[best] - x) ? k : best, 0);
    show(event.clientX, event.clientY);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", event => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (event.key === "Escape") leave();
    if (!step) return;
    event.preventDefault();
    at = Math.max(0, Math.min(places.length - 1, tip.hidden ? at : at + step));
    const box = svg.getBoundingClientRect();
    show(box.left + places[at] * box.width / svg.viewBox.baseVal.width, box.top + box.height / 3);
  });
}
"""

# Numbers sort as numbers, whatever stands behind them; cells without one come last.
_SORT = """
const sortKey = cell => {
  const text = cell.textContent.trim(), number = parseFloat(text.replaceAll(",", "").replace("\\u2212", "-"));
  return Number.isNaN(number) ? text : number;
};
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], titles = [...table.tHead.rows[0].cells];
  titles.forEach((title, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    title.append(button);
    button.addEventListener("click", () => {
      const down = title.getAttribute("aria-sort") === "ascending";
      titles.forEach(other => other.removeAttribute("aria-sort"));
      title.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map(row => [sortKey(row.cells[column]), row]);
      const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b
        : typeof a === "number" ? -1 : typeof b === "number" ? 1 : a.localeCompare(b);
      rows.sort((a, b) => down ? compare(b[0], a[0]) : compare(a[0], b[0]));
      body.append(...rows.map(row => row[1]));
    });
  });
}
"""

# The parts are found by their place, so that a page can hold several players.
_PLAYER = """
for (const player of document.querySelectorAll(".player")) {
  const controls = player.querySelector(".controls"), [button, slider] = controls.children;
  const marker = player.querySelector(".marker"), now = player.querySelector(".now");
  const frames = [...player.querySelectorAll(".drawings")], values = JSON.parse(player.dataset.values);
  const latest = (list, epochOf, epoch) => list.filter(item => epochOf(item) <= epoch).pop();
  let timer = 0;
  const show = () => {
    const epoch = Number(slider.value);
    const frame = latest(frames, f => Number(f.dataset.epoch), epoch) ?? frames[0];
    const value = latest(values, v => v[0], epoch);
    for (const f of frames) f.hidden = f !== frame;
    marker.setAttribute("transform", `translate(${Number(marker.dataset.start) + marker.dataset.step * epoch} 0)`);
    const measured = value ? `eigenvalue ${value[1]} (epoch ${value[0]})` : "no eigenvalue yet";
    now.textContent = `Epoch ${epoch}: ${measured}, these cells since epoch ${frame.dataset.epoch}`;
    slider.setAttribute("aria-valuetext", now.textContent);
  };
  const play = on => {
    clearInterval(timer);
    timer = on ? setInterval(() => {
      slider.stepUp();
      show();
      if (slider.value === slider.max) play(false);
    }, 400) : 0;
    button.textContent = on ? "\\u23f8" : "\\u25b6";
    button.setAttribute("aria-label", on ? "Pause" : "Play");
  };
  button.addEventListener("click", () => {
    if (!timer && slider.value === slider.max) slider.value = slider.min;
    play(!timer);
    show();
  });
  slider.addEventListener("input", () => { play(false); show(); });
  controls.hidden = false;
  show();
}
"""

# A page of an unfinished run is read again now and then, but not while somebody reads a value or plays the cells.
_FOLLOW = """
const follow = document.querySelector(".follow");
if (follow) {
  const written = Number(follow.dataset.written), pause = Number(follow.dataset.pause);
  const quiet = () => Date.now() / 1000 - written;
  const busy = () => document.hidden || !tip.hidden || document.querySelector(".help[open], [aria-label=Pause]")
    || String(getSelection());
  const look = () => {
    if (quiet() > Number(follow.dataset.patience)) {
      const minutes = Math.round(quiet() / 60);
      follow.textContent = `Nothing has been written for ${minutes} minutes: the run may have stopped.`;
    } else if (!busy()) {
      location.reload();
    }
  };
  setInterval(look, 1000 * pause);
  if (quiet() > Number(follow.dataset.patience)) look();
}
"""

SCRIPT = _HOVER + _SORT + _PLAYER + _FOLLOW
