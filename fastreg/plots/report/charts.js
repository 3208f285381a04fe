// Strip plots: every pair a dot, one that is not fine a diamond, the median a line.

const SVG = "http://www.w3.org/2000/svg";

function svgNode(name, attributes, parent) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

// A figure element with the plot of one column; `open(index)` is called with the pair whose dot is clicked.
function strip(column, rows, open, hover) {
  const values = rows.map(row => row.figures[column.key]);
  const known = values.filter(value => value !== undefined).sort((a, b) => a - b);
  const [low, high] = [known[0], known[known.length - 1]], span = high - low || 1;
  const middle = (known[known.length - 1 >> 1] + known[known.length >> 1]) / 2;
  const x = value => high === low ? 110 : 8 + 204 * (value - low) / span;

  const figure = document.createElement("figure");
  figure.className = "strip";
  const caption = document.createElement("figcaption"), name = document.createElement("span"), said = document.createElement("output");
  name.textContent = column.long + (column.unit ? `, ${column.unit}` : "");
  name.title = column.help;
  caption.append(name, said);
  const range = `${column.long}: ${shown(low, column)} to ${shown(high, column)}, median ${shown(middle, column)}`;
  const svg = svgNode("svg", {viewBox: "0 0 220 50", role: "img", "aria-label": range});
  svgNode("line", {x1: 4, x2: 216, y1: 36, y2: 36, class: "axis"}, svg);
  svgNode("line", {x1: x(middle), x2: x(middle), y1: 6, y2: 36, class: "median"}, svg);
  svgNode("text", {x: 4, y: 48}, svg).textContent = shown(low, column);
  if (high !== low) svgNode("text", {x: 216, y: 48, "text-anchor": "end"}, svg).textContent = shown(high, column);
  values.forEach((value, k) => {
    if (value === undefined) return;
    const odd = rows[k].state !== "done";
    const [cx, cy] = [x(value), 12 + (k * 7919 % 19)];  // beside each other, always the same way
    const dot = odd
      ? svgNode("path", {d: `M ${cx} ${cy - 5.5} l 5.5 5.5 -5.5 5.5 -5.5 -5.5 z`, class: "dot odd", "data-pair": k}, svg)
      : svgNode("circle", {cx, cy, r: 3.6, class: "dot", "data-pair": k}, svg);
    svgNode("title", {}, dot).textContent = `${rows[k].name}: ${shown(value, column)}`;
    dot.addEventListener("click", () => open(k));
    dot.addEventListener("mouseenter", () => hover(k));
    dot.addEventListener("mouseleave", () => hover(null));
  });
  figure.append(caption, svg);
  figure.point = k => {  // puts the pair's dot in front, and its value beside the name
    for (const dot of svg.querySelectorAll(".dot")) {
      const here = Number(dot.dataset.pair) === k;
      dot.classList.toggle("here", here);
      if (dot.tagName === "circle") dot.setAttribute("r", here ? 5 : 3.6);
      if (here) svg.append(dot);
    }
    said.textContent = k === null || values[k] === undefined ? "" : shown(values[k], column);
  };
  return figure;
}
