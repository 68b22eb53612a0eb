// Plots drawn in SVG: bars, a line, and the small columns of a sparkline. An svg that stands in the
// page lends its namespace to what is drawn in it.

/** The outcomes of streams by what they mean for who looks, from the bottom of a bar to its top. */
export const GROUPS = {
  ok: ["ok"],
  left: ["left", "stopped", "slow", "draining"],
  refused: ["refused"],
  failed: ["cut", "stalled", "error", "too_long"],
};

/** Return the minutes of a group: the sum of its outcomes. */
export function grouped(minutes, group) {
  const rows = GROUPS[group].map((name) => minutes[name]).filter(Boolean);
  return Array.from({ length: 15 }, (_, n) => rows.reduce((sum, row) => sum + row[n], 0));
}

/** Draw a bar for each minute, in parts of one group each; return the highest bar. */
export function bars(svg, minutes) {
  const { width, height } = svg.viewBox.baseVal;
  const parts = Object.keys(GROUPS).map((group) => [`s_${group}`, grouped(minutes, group)]);
  const heights = Array.from({ length: 15 }, (_, n) => parts.reduce((sum, [, row]) => sum + row[n], 0));
  const top = Math.max(...heights);
  const step = width / heights.length;
  draw(svg, heights.flatMap((_, n) => {
    let y = height;
    return parts.filter(([, row]) => row[n]).map(([name, row]) => {
      const tall = (row[n] / top) * height;
      y -= tall;
      return ["rect", { class: name, x: n * step + 1, y, width: step - 2, height: tall }];
    });
  }));
  return top;
}

/** Draw values as a line over the area below it; return the highest. */
export function line(svg, values) {
  const { width, height } = svg.viewBox.baseVal;
  const top = Math.max(...values);
  const points = values.map((value, n) => {
    const y = height - (top ? (value / top) * (height - 4) : 0);
    return `${(n / (values.length - 1)) * width},${y}`;
  });
  draw(svg, top
    ? [
        ["polygon", { class: "s_area", points: `0,${height} ${points.join(" ")} ${width},${height}` }],
        ["polyline", { class: "s_line", points: points.join(" ") }],
      ]
    : []);
  return top;
}

/** Draw the last dials, the newest at the right: as high as they took long, red where they failed. */
export function spark(svg, dials) {
  const { width, height } = svg.viewBox.baseVal;
  const top = Math.max(...dials.map((ms) => ms ?? 0));
  const from = width - dials.length * 3;
  draw(svg, dials.map((ms, n) => {
    const tall = ms === null ? height : Math.max(2, top ? (ms / top) * height : 0);
    const name = ms === null ? "s_failed" : "s_dial";
    return ["rect", { class: name, x: from + n * 3, y: height - tall, width: 2, height: tall }];
  }));
}

function draw(svg, shapes) {
  svg.replaceChildren(...shapes.map(([tag, attributes]) => {
    const shape = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
    return shape;
  }));
}
