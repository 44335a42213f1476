// Colours and small drawing helpers, shared by the photos, the map and the charts.
"use strict";

(() => {
  const parse = (code) => [0, 2, 4].map((i) => parseInt(code.slice(i, i + 2), 16));
  const ramp = (codes) => {
    const stops = codes.split(" ").map(parse);
    return (t) => {
      const x = Math.min(1, Math.max(0, t)) * (stops.length - 1);
      const i = Math.min(Math.floor(x), stops.length - 2);
      return stops[i].map((a, k) => Math.round(a + (stops[i + 1][k] - a) * (x - i)));
    };
  };

  // From -1, opposite, over 0 in white to 1, alike: the blue and orange of the printed maps, told apart by all eyes.
  const diverging = ramp("003a5c 0072b2 86bcdc f4f4f4 f0ab78 d55e00 7a3300");
  const heat = (value) => diverging((value + 1) / 2);
  const HEAT = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i++) HEAT.set(diverging(i / 255), 3 * i);

  const layers = ramp("3b4cc0 6f92f3 aac7fd dddddd f7b89c e7745b b40426");
  const light = ramp("f3f6fa c6dbef 6baed6 2171b5 08306b");
  const dark = ramp("1b222c 1f4468 2f78ad 6db3e3 d6efff");
  const lightSigned = ramp("8c3b00 f0a35e f5f3ef 6baed6 08306b");
  const darkSigned = ramp("ffb77a a4541a 22252b 2f78ad a9d9ff");

  const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

  aligncut.css = ([r, g, b]) => `rgb(${r},${g},${b})`;
  aligncut.heat = heat;
  aligncut.layerColour = layers;
  aligncut.hexColour = parse;
  aligncut.theme = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Colour of a matrix cell, and the ink that can be read on it.
  aligncut.cellColour = (value, low, high) => {
    const t = (value - low) / (high - low || 1);
    const colour = (low < 0 ? (isDark() ? darkSigned : lightSigned) : isDark() ? dark : light)(t);
    const [r, g, b] = colour.map((x) => (x / 255 <= 0.03928 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4));
    return { fill: aligncut.css(colour), ink: 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff" };
  };

  // Make an element: element("p", {class: "quiet"}, "text", child).
  aligncut.element = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    return fill(node, attributes, children);
  };
  aligncut.svg = (tag, attributes = {}, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    return fill(node, attributes, children);
  };
  const fill = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };

  // Give a canvas the pixels of its size on the screen, and return its context in CSS pixels.
  aligncut.fit = (canvas, width, height) => {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const w = Math.max(1, Math.round(width * ratio));
    const h = Math.max(1, Math.round(height * ratio));
    if (canvas.width !== w || canvas.height !== h) {
      canvas.width = w;
      canvas.height = h;
    }
    const context = canvas.getContext("2d");
    context.setTransform(w / width, 0, 0, h / height, 0, 0);
    context.clearRect(0, 0, width, height);
    return context;
  };

  // A canvas of one pixel per patch, painted by values in -1..1.
  aligncut.heatGrid = (values, columns, rows) => {
    const canvas = document.createElement("canvas");
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    for (let i = 0; i < columns * rows; i++) {
      const at = 3 * Math.round(127.5 * (Math.min(1, Math.max(-1, values[i])) + 1));
      image.data[4 * i] = HEAT[at];
      image.data[4 * i + 1] = HEAT[at + 1];
      image.data[4 * i + 2] = HEAT[at + 2];
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return canvas;
  };

  // One button of a group can be tabbed to; arrow keys move between them. columns() says how many stand in a row.
  aligncut.rove = (container, columns) => {
    const buttons = () => [...container.querySelectorAll("button")];
    const enter = (button) => {
      for (const other of buttons()) other.tabIndex = other === button ? 0 : -1;
    };
    container.addEventListener("focusin", (event) => {
      if (event.target.matches("button")) enter(event.target);
    });
    container.addEventListener("keydown", (event) => {
      const all = buttons();
      const at = all.indexOf(document.activeElement);
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() }[event.key];
      let next = null;
      if (step !== undefined) next = all[at + step];
      else if (event.key === "Home") next = all[0];
      else if (event.key === "End") next = all[all.length - 1];
      else return;
      if (at < 0) return;
      event.preventDefault();
      if (next) next.focus();
    });
    return () => {
      const all = buttons();
      if (!all.some((button) => button.tabIndex === 0)) all.forEach((button, i) => (button.tabIndex = i === 0 ? 0 : -1));
    };
  };

  aligncut.number = (value, digits = 3) => {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4 ? value.toFixed(digits) : value.toPrecision(3);
  };
})();
