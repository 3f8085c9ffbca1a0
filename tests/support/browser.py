"""A real browser for pages that the package writes: Chromium without a window."""

import contextlib
import shutil
import tempfile

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


@contextlib.contextmanager
def browser():
    """A driver of Chromium; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="drives pages in a browser with selenium")
    if not CHROMIUM or not DRIVER:
        pytest.skip("looks at pages in Chromium, which is not installed with its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        try:
            yield driver
        finally:
            driver.quit()


def look(driver, page, scheme="light", width=1180):
    """Open ``page`` as a light or a dark one, in a window of this width."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(page.as_uri())


ILLEGIBLE = """
const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length === 3 ? [...n, 1] : n; };
const over = (top, below) => [0, 1, 2].map(k => top[k] * top[3] + below[k] * (1 - top[3]));
const light = c => c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let seen = 0;
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement, svg = element.closest("svg");
  if (!walker.currentNode.data.trim() || ["SCRIPT", "STYLE", "title", "desc"].includes(element.tagName)) continue;
  if (!element.checkVisibility() || element.closest("g") && svg.closest(".drawings, .spans")) continue;  // on boxes
  const layers = [];
  let opacity = 1;
  for (let e = element; e; e = e.parentElement) {
    layers.unshift(parse(getComputedStyle(e).backgroundColor));
    opacity *= Number(getComputedStyle(e).opacity);
  }
  const below = layers.reduce((color, layer) => over(layer, color), [255, 255, 255]);
  const own = parse(getComputedStyle(element)[svg ? "fill" : "color"]);
  const text = over([...own.slice(0, 3), own[3] * opacity], below), pair = [light(text), light(below)].sort();
  const [low, high] = [Math.min(...pair), Math.max(...pair)], contrast = (high + 0.05) / (low + 0.05);
  seen += 1;
  if (contrast < 4.5) found.push(`${walker.currentNode.data.trim().slice(0, 30)}: ${contrast.toFixed(2)}`);
}
return [seen, found];
"""
"""How many pieces of text a page shows, and those whose contrast is below 4.5 (WCAG 2.1 AA)."""
