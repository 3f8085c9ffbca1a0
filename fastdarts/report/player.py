"""The eigenvalue over the epochs beside the cells derived at each of them, to play through in the report."""

import json
from collections.abc import Mapping, Sequence

from fastdarts.report.charts import Line, line_chart, number
from fastdarts.report.markup import Html, element

NAME = "Largest eigenvalue of the alphas' Hessian"


def eigenvalue_player(
    eigenvalues: Sequence[tuple[int, float]],
    genotypes: Sequence[tuple[int, Mapping[str, Html]]],
    colour: str,
    last: int,
    shown: int,
) -> Html:
    """A chart with a marker, drawings and what moves both: a button and a slider, which ``SCRIPT`` brings to life.

    eigenvalues: (epoch, value), ascending. genotypes: (first epoch of it, an SVG of each kind of cell), ascending.
    last: the last epoch. shown: the one to begin with.

    Without scripts it shows that one, and no controls.
    """
    first = genotypes[0][0]
    since = max((epoch for epoch, _ in genotypes if epoch <= shown), default=first)
    chart = line_chart(NAME, [Line("at the last measurement", colour, eigenvalues)], marker=shown)
    frames = (
        element(
            "div",
            *(element("div", svg) for svg in drawings.values()),
            class_="drawings",
            data_epoch=epoch,
            hidden=True if epoch != since else None,
        )
        for epoch, drawings in genotypes
    )
    values = json.dumps([[epoch, number(value)] for epoch, value in eigenvalues])
    button = element("button", "▶", type="button", aria_label="Play")
    slider = element("input", type="range", min=first, max=last, value=shown, aria_label="Epoch")
    controls = element("div", button, slider, class_="controls", hidden=True)
    now = element("p", _now(shown, eigenvalues, since), class_="now", aria_live="polite")
    return element("div", element("div", chart, controls, now), *frames, class_="player", data_values=values)


def _now(epoch: int, eigenvalues: Sequence[tuple[int, float]], since: int) -> str:
    """What SCRIPT says too."""
    measured = max((point for point in eigenvalues if point[0] <= epoch), default=None)
    value = f"eigenvalue {number(measured[1])} (epoch {measured[0]})" if measured else "no eigenvalue yet"
    return f"Epoch {epoch}: {value}, these cells since epoch {since}"


# The parts are found by their place, so that a page can hold several players.
SCRIPT = """
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
