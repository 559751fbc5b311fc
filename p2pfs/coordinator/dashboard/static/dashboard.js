// Draws charts by uPlot from what the coordinator measured, and says when it does not answer. htmx renews the rest.
"use strict";
const RENEW_MS = 10000;
const HEIGHT = 220;
const POWERS = Array.from({ length: 60 }, (_, power) => 2 ** power);
const COUNTS = Array.from({ length: 14 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();
const KINDS = {
  lost: "--bad", last: "--last", short: "--warn", enough: "--good", more: "--more",
  used: "--used", room: "--faint", trash: "--trash",
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const bytes = (count) => {
  let power = 0;
  while (Math.abs(count) >= 1000 && power < 6) { count /= 1024; power += 1; }
  return `${Number(count.toPrecision(3))} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][power]}`;
};
const WRITTEN = { bytes, rate: (count) => `${bytes(count)}/s`, count: (count) => String(Math.round(count)) };
const written = (unit, value) => (value == null ? "—" : (WRITTEN[unit] ?? String)(value));

// Stacked: each line is drawn on top of those before it, and told by its own value.
const heaped = (lines) => {
  const heap = [];
  return lines.map((line) => line.values.map((value, at) => (heap[at] = (heap[at] ?? 0) + (value ?? 0))));
};

const instant = (at) => new Date(at * 1000).toISOString().slice(0, 16).replace("T", " ");
// Of an axis: the date where a day begins, hours elsewhere; amounts in the unit of the largest.
const moments = (ticks) => ticks.map((tick, at) => {
  const [date, hour] = instant(tick).split(" ");
  return hour === "00:00" || (at === 0 && ticks.length > 1 && ticks[1] - tick >= 86400) ? date.slice(5) : hour;
});
const amounts = (unit, ticks) => {
  if (unit === "count") return ticks.map((tick) => written(unit, tick));
  const [, name] = written(unit, Math.max(...ticks)).split(" ");
  const size = 1024 ** Math.max(0, ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].indexOf(name.replace("/s", "")));
  return ticks.map((tick) => `${Number((tick / size).toPrecision(3))} ${name}`);
};

const plot = (place, data) => {
  const drawn = data.stacked ? heaped(data.lines).reverse() : data.lines.map((line) => line.values);
  const lines = data.stacked ? [...data.lines].reverse() : data.lines;
  const series = lines.map((line) => ({
    label: line.words,
    stroke: colour(KINDS[line.kind] ?? "--used"),
    fill: data.stacked ? colour(KINDS[line.kind] ?? "--used") : undefined,
    width: 2,
    points: { show: data.times.length < 3 },
    value: (_, __, ___, at) => written(data.unit, at == null ? line.values.at(-1) : line.values[at]),
  }));
  const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const options = {
    width: place.clientWidth,
    height: HEIGHT,
    scales: { x: { range: () => data.span }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.05 : 1] } },
    tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
    axes: [{ ...axis, values: (_, ticks) => moments(ticks) }, { ...axis, size: 84, incrs: data.unit === "count" ? COUNTS : POWERS, values: (_, ticks) => amounts(data.unit, ticks) }],
    series: [{ label: "UTC", value: (_, at) => instant(at ?? data.times.at(-1) ?? data.span[1]) }, ...series],
    cursor: { drag: { setScale: false } },
  };
  place.replaceChildren();
  if (!data.lines.length) {
    place.append(data.times.length ? "Nothing in this time." : "Nothing was measured in this time yet.");
    return null;
  }
  return new uPlot(options, [data.times, ...drawn], place);
};

const renew = async (place) => {
  try {
    const answer = await fetch(place.dataset.chart, { signal: AbortSignal.timeout(10000) });
    if (answer.status === 401) { location.assign("/login"); return; }
    if (!answer.ok) return;
    place.data = await answer.json();
    draw(place);
  } catch { /* the live part says that nobody answers */ }
};
const draw = (place) => {
  place.plot?.destroy();
  place.plot = place.data ? plot(place, place.data) : null;
};

const places = [...document.querySelectorAll("[data-chart]")];
const all = (act) => places.forEach(act);
if (typeof uPlot === "function") {
  all(renew);
  setInterval(() => { if (!document.hidden) all(renew); }, RENEW_MS);
  dark.addEventListener("change", () => all(draw));
  new ResizeObserver(() => all((place) => place.plot?.setSize({ width: place.clientWidth, height: HEIGHT })))
    .observe(document.getElementById("content"));
}

// What a reader has opened stays open when the live part is renewed; htmx keeps the focus.
let opened = [];
document.addEventListener("htmx:beforeSwap", () => {
  opened = [...document.querySelectorAll("#live details[open][id]")].map((one) => one.id);
});
document.addEventListener("htmx:afterSwap", () => {
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
});

const lost = document.createElement("p");
lost.className = "notice";
lost.setAttribute("role", "status");
lost.textContent = "The coordinator does not answer: what is shown is as it was.";
for (const event of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(event, () => document.getElementById("content").prepend(lost));
}
document.addEventListener("htmx:afterOnLoad", () => lost.remove());
