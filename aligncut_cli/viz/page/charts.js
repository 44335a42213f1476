// Curves, bars, heat maps and flows, each from one block of data; all text comes in as text, never as markup.
"use strict";

(() => {
  const { element, svg, number } = aligncut;

  const fixed = (value, digits) => (value === null ? "–" : value.toFixed(digits ?? 2));

  const frame = (block, ...content) =>
    element("figure", { class: `block ${block.kind}` }, element("h4", {}, block.title), block.about ? element("p", { class: "quiet" }, block.about) : null, ...content);

  // ---- curves

  const W = 340, H = 230, LEFT = 38, BOTTOM = 34, TOP = 10, RIGHT = 10;

  const curvePanel = (panel, block) => {
    const xs = panel.x;
    const x = (i) => LEFT + ((W - LEFT - RIGHT) * (xs.length > 1 ? i / (xs.length - 1) : 0.5));
    const y = (v) => TOP + (H - TOP - BOTTOM) * (1 - (v - block.low) / (block.high - block.low));
    const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": describe(panel, block) });
    for (let k = 0; k <= 4; k++) {
      const value = block.low + ((block.high - block.low) * k) / 4;
      root.append(svg("line", { x1: LEFT, x2: W - RIGHT, y1: y(value), y2: y(value), class: "rule" }));
      root.append(svg("text", { x: LEFT - 6, y: y(value) + 4, class: "tick end" }, number(value, 2)));
    }
    const every = Math.ceil(xs.length / 12);
    xs.forEach((layer, i) => {
      if (i % every === 0) root.append(svg("text", { x: x(i), y: H - BOTTOM + 16, class: "tick middle" }, String(layer)));
    });
    root.append(svg("text", { x: (W + LEFT) / 2, y: H - 3, class: "tick middle" }, block.xLabel));
    let colour = 0;
    for (const series of panel.series) {
      const points = series.y.map((v, i) => [x(i), v === null ? null : y(v), v]).filter((p) => p[1] !== null);
      if (!points.length) continue;
      const own = series.style === "line" ? `series-${colour++ % 6}` : "against";
      const path = points.map((p, i) => `${i ? "L" : "M"}${p[0].toFixed(1)} ${p[1].toFixed(1)}`).join("");
      if (series.spread) {
        const up = points.map((p, i) => [p[0], y(Math.min(block.high, p[2] + (series.spread[i] ?? 0)))]);
        const down = points.map((p, i) => [p[0], y(Math.max(block.low, p[2] - (series.spread[i] ?? 0)))]).reverse();
        root.append(svg("path", { d: `M${[...up, ...down].map((p) => p.map((n) => n.toFixed(1)).join(" ")).join("L")}Z`, class: `band ${own}` }));
      }
      root.append(svg("path", { d: path, class: `curve ${series.style} ${own}` }));
      if (series.style === "line") {
        for (const p of points) {
          const layer = xs[Math.round(((p[0] - LEFT) / (W - LEFT - RIGHT)) * (xs.length - 1))] ?? xs[0];
          root.append(svg("circle", { cx: p[0], cy: p[1], r: 3.2, class: own }, svg("title", {}, `${series.name}, ${block.xLabel} ${layer}: ${number(p[2])}`)));
        }
      }
    }
    return element("div", { class: "panel" }, element("h5", {}, panel.title), root);
  };

  const describe = (panel, block) =>
    `${block.yLabel} by ${block.xLabel} of ${panel.title}. ` +
    panel.series
      .map((series) => {
        const known = series.y.filter((v) => v !== null);
        if (!known.length) return "";
        const best = Math.max(...known);
        const end = series.style === "line" ? `, highest ${number(best)} at ${block.xLabel} ${panel.x[series.y.indexOf(best)]}` : "";
        return `${series.name}: from ${number(known[0])} to ${number(known[known.length - 1])}${end}.`;
      })
      .join(" ");

  const legend = (panel) => {
    let colour = 0;
    return element(
      "ul",
      { class: "legend" },
      ...panel.series.map((series) => {
        const own = series.style === "line" ? `series-${colour++ % 6}` : "against";
        const mark = svg("svg", { viewBox: "0 0 28 10", "aria-hidden": "true" }, svg("path", { d: "M1 5L27 5", class: `curve ${series.style} ${own}` }));
        return element("li", {}, mark, series.name);
      }),
    );
  };

  const curves = (block) => frame(block, legend(block.panels[0]), element("div", { class: "panels" }, ...block.panels.map((panel) => curvePanel(panel, block))));

  // ---- bars: rows of words and lengths, so that they read well on a phone and aloud

  // One scale for bars of one title, whatever store they are of.
  aligncut.shareScales = (blocks) => {
    for (const title of new Set(blocks.map((block) => block.title))) {
      const group = blocks.filter((block) => block.title === title);
      const known = group.flatMap((block) => [...block.values, ...(block.intervals ?? []).flat(), ...block.marks.flatMap((mark) => mark.values)]).filter((v) => v !== null);
      for (const block of group) Object.assign(block, { low: Math.min(0, ...known), high: Math.max(0.01, ...known) });
    }
  };

  const bars = (block) => {
    const { low, high } = block;
    const at = (v) => `${((v - low) / (high - low)) * 100}%`;
    const list = element("ul", { class: "bars" });
    const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5].find((size) => (high - low) / size <= 6) ?? (high - low) / 5;
    const ticks = [];
    for (let k = Math.ceil(low / step); k * step <= high + 1e-9; k++) ticks.push(k * step);
    block.labels.forEach((label, i) => {
      const value = block.values[i];
      const zero = element("div", { class: "zero" });
      zero.style.left = at(0);
      const track = element("div", { class: "track", "aria-hidden": "true" }, zero);
      if (value !== null) {
        const bar = element("div", { class: "bar" });
        bar.style.left = at(Math.min(0, value));
        bar.style.width = `${(Math.abs(value) / (high - low)) * 100}%`;
        track.append(bar);
      }
      const [from, to] = block.intervals ? [block.intervals[0][i], block.intervals[1][i]] : [null, null];
      if (from !== null && to !== null) {
        const whisker = element("div", { class: "whisker", title: `95 % interval: ${number(from)} to ${number(to)}` });
        whisker.style.left = at(from);
        whisker.style.width = `${((to - from) / (high - low)) * 100}%`;
        track.append(whisker);
      }
      block.marks.forEach((mark) => {
        if (mark.values[i] === null) return;
        const sign = element("div", { class: `mark ${mark.sign}`, title: `${mark.name}: ${number(mark.values[i])}` });
        sign.style.left = at(mark.values[i]);
        track.append(sign);
      });
      const beside = [...(from === null || to === null ? [] : [`95 % interval ${number(from)} to ${number(to)}`]), ...block.marks.map((mark) => `${mark.name} ${number(mark.values[i])}`)].join(", ");
      list.append(
        element("li", {}, element("span", { class: "bar-label" }, label), track, element("span", { class: "bar-value" }, number(value), element("span", { class: "hidden-text" }, beside ? `, ${beside}` : ""))),
      );
    });
    const axis = element("div", { class: "track axis" });
    for (const value of ticks) {
      const tick = element("span", {}, String(Number(value.toFixed(2))));
      tick.style.left = at(value);
      axis.append(tick);
    }
    list.append(element("li", { class: "axis-row", "aria-hidden": "true" }, element("span", {}), axis, element("span", { class: "bar-value" }, block.yLabel)));
    const interval = block.intervals ? [element("li", {}, element("span", { class: "swatch whisker" }), "95 % interval over images")] : [];
    const keys = element("ul", { class: "legend" }, element("li", {}, element("span", { class: "swatch bar" }), block.yLabel), ...interval, ...block.marks.map((mark) => element("li", {}, element("span", { class: `swatch mark ${mark.sign}` }), mark.name)));
    return frame(block, keys, list);
  };

  // ---- heat maps

  const matrixPanel = (panel, block) => {
    const small = panel.columns.length <= 12;
    const head = element("tr", {}, element("td", {}), ...panel.columns.map((name) => element("th", { scope: "col" }, element("span", {}, name))));
    const rows = panel.values.map((row, i) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, panel.rows[i]),
        ...row.map((value, j) => {
          const cell = element("td", { title: `${panel.rows[i]} – ${panel.columns[j]}: ${number(value)}` }, fixed(value, block.digits));
          if (value !== null) {
            const { fill, ink } = aligncut.cellColour(value, block.low, block.high);
            cell.style.background = fill;
            if (small) cell.style.color = ink;
          }
          return cell;
        }),
      ),
    );
    const table = element("table", { class: small ? "matrix" : "matrix dense" }, element("caption", {}, panel.title ?? ""), element("thead", {}, head), element("tbody", {}, ...rows));
    const save = aligncut.downloadButton(`${block.title} ${panel.title ?? ""}`.trim(), ["", ...panel.columns], panel.values.map((row, i) => [panel.rows[i], ...row]));
    return element("div", { class: "panel" }, element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${block.title} ${panel.title ?? ""}` }, table), save);
  };

  const scale = (block) => {
    const stops = Array.from({ length: 9 }, (_, i) => aligncut.cellColour(block.low + ((block.high - block.low) * i) / 8, block.low, block.high).fill);
    const bar = element("span", { class: "scale-bar", "aria-hidden": "true" });
    bar.style.background = `linear-gradient(to right, ${stops.join(",")})`;
    return element("p", { class: "scale" }, number(block.low, block.digits ?? 1), bar, number(block.high, block.digits ?? 1));
  };

  const matrix = (block) => {
    const panels = block.panels ?? [{ rows: block.rows, columns: block.columns, values: block.values }];
    return frame(block, scale(block), element("div", { class: "panels" }, ...panels.map((panel) => matrixPanel(panel, block))));
  };

  // ---- flows: columns of concepts, bands between them as wide as the patches that move

  const flowPanel = (panel, block) => {
    const width = 130 * (panel.columns.length - 1) + 140, height = 250, gap = 6, bar = 10, side = 48, head = 24;
    const sizes = panel.columns.map((column, c) =>
      column.names.map((_, k) => {
        const out = c < panel.links.length ? panel.links[c][k].reduce((a, b) => a + (b ?? 0), 0) : 0;
        const into = c > 0 ? panel.links[c - 1].reduce((a, row) => a + (row[k] ?? 0), 0) : 0;
        return Math.max(out, into);
      }),
    );
    const most = Math.max(1, ...sizes.map((column) => column.reduce((a, b) => a + b, 0)));
    const unit = (height - gap * Math.max(...sizes.map((s) => s.length))) / most;
    const tops = sizes.map((column) => {
      let y = head;
      return column.map((size) => {
        const top = y;
        y += size * unit + gap;
        return top;
      });
    });
    const x = (c) => side + ((width - 2 * side - bar) * c) / Math.max(1, panel.columns.length - 1);
    const total = panel.links.flat(2).reduce((a, b) => a + (b ?? 0), 0);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height + head + 4}`, width, height: height + head + 4, role: "img", "aria-label": `Flow of ${panel.title}: ${number(total)} patches between ${panel.columns.length} layers; the heat maps have the numbers.` });
    panel.links.forEach((links, c) => {
      const left = tops[c].slice(), right = tops[c + 1].slice();
      links.forEach((row, a) =>
        row.forEach((count, b) => {
          if (!count) return;
          const thick = count * unit, y0 = left[a] + thick / 2, y1 = right[b] + thick / 2, x0 = x(c) + bar, x1 = x(c + 1), xm = (x0 + x1) / 2;
          left[a] += thick;
          right[b] += thick;
          root.append(svg("path", { d: `M${x0} ${y0}C${xm} ${y0} ${xm} ${y1} ${x1} ${y1}`, "stroke-width": Math.max(0.6, thick), class: `band-flow series-${a % 6}` }, svg("title", {}, `${panel.columns[c].title} ${panel.columns[c].names[a]} to ${panel.columns[c + 1].title} ${panel.columns[c + 1].names[b]}: ${number(count)} patches`)));
        }),
      );
    });
    panel.columns.forEach((column, c) => {
      root.append(svg("text", { x: x(c) + bar / 2, y: 12, class: "tick middle" }, column.title));
      column.names.forEach((name, k) => {
        if (!sizes[c][k]) return;
        root.append(svg("rect", { x: x(c), y: tops[c][k], width: bar, height: Math.max(1, sizes[c][k] * unit), class: "node" }));
        if (sizes[c][k] * unit < 9) return; // too thin to name; the band's own text has the names
        const first = c === 0;
        root.append(svg("text", { x: first ? x(c) - 5 : x(c) + bar + 5, y: tops[c][k] + (sizes[c][k] * unit) / 2 + 4, class: `tick halo ${first ? "end" : ""}` }, name));
      });
    });
    return element("div", { class: "panel" }, element("h5", {}, panel.title), element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Flow of ${panel.title}` }, root));
  };

  const flow = (block) => frame(block, element("div", { class: "panels" }, ...block.panels.map((panel) => flowPanel(panel, block))));

  // ---- pictures

  const figure = (block) =>
    frame(block, element("a", { href: block.file, "aria-label": `Open ${block.title} in full size` }, element("img", { src: block.file, alt: block.alt, width: block.width, height: block.height, loading: "lazy" })));

  const kinds = { table: aligncut.tableBlock, curves, bars, matrix, flow, figure };
  aligncut.drawBlock = (block) => {
    const node = kinds[block.kind](block);
    return block.folded ? element("details", {}, element("summary", {}, block.title), node) : node;
  };
})();
