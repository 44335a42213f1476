// The map: a sample of all patches as points, and the path of the chosen patch through the layers.
"use strict";

(() => {
  const PAD = 14;

  // A map in a canvas. choose(slot, image, patch) is called when a point is picked.
  aligncut.Map = class {
    constructor(box, canvas, choose) {
      Object.assign(this, { box, canvas, choose, points: null, cursor: -1, shown: [] });
      box.addEventListener("click", (event) => {
        const place = canvas.getBoundingClientRect();
        this.pick(this.nearest(event.clientX - place.left, event.clientY - place.top, 14));
      });
      box.addEventListener("keydown", (event) => this.key(event));
      box.addEventListener("blur", () => {
        this.cursor = -1;
        this.redraw();
      });
    }

    static decode(content) {
      const bytes = Object.fromEntries(Object.entries(content).map(([name, text]) => [name, aligncut.bytesOf(text).buffer]));
      const value = {
        place: new Uint16Array(bytes.place),
        colour: new Uint8Array(bytes.colour),
        slot: new Uint16Array(bytes.slot),
        image: new Uint32Array(bytes.image),
        patch: new Uint16Array(bytes.patch),
      };
      return { value, bytes: Object.values(bytes).reduce((a, b) => a + b.byteLength, 0) };
    }

    get side() {
      return this.canvas.clientWidth || 300;
    }

    xy(u, v) {
      const size = this.side - 2 * PAD;
      return [PAD + (u / 65535) * size, PAD + (1 - v / 65535) * size];
    }

    // slots: which are shown; colourOf(slot) or null for the points' own colours; paths: [{places, layers, name, main, at}]
    draw(points, slots, colourOf, paths) {
      Object.assign(this, { points, slots, colourOf, paths });
      this.shown = [];
      for (let i = 0; i < points.slot.length; i++) if (slots.has(points.slot[i])) this.shown.push(i);
      this.redraw();
    }

    redraw() {
      if (!this.points) return;
      const { points, side } = this;
      const context = aligncut.fit(this.canvas, side, side);
      const size = this.shown.length > 6000 ? 2 : this.shown.length > 1500 ? 2.6 : 3.6;
      context.globalAlpha = this.paths.length ? 0.55 : 0.9;
      for (const i of this.shown) {
        const [x, y] = this.xy(points.place[2 * i], points.place[2 * i + 1]);
        const own = points.colour;
        context.fillStyle = this.colourOf ? this.colourOf(points.slot[i]) : `rgb(${own[3 * i]},${own[3 * i + 1]},${own[3 * i + 2]})`;
        context.fillRect(x - size / 2, y - size / 2, size, size);
      }
      context.globalAlpha = 1;
      for (const path of this.paths.filter((p) => !p.main)) this.drawPath(context, path);
      for (const path of this.paths.filter((p) => p.main)) this.drawPath(context, path);
      if (this.cursor >= 0) {
        const [x, y] = this.xy(points.place[2 * this.cursor], points.place[2 * this.cursor + 1]);
        this.ring(context, x, y, 8);
      }
    }

    ring(context, x, y, radius) {
      for (const [width, colour] of [[5, aligncut.theme("--paper")], [2.5, aligncut.theme("--ink")]]) {
        context.beginPath();
        context.arc(x, y, radius, 0, 7);
        context.lineWidth = width;
        context.strokeStyle = colour;
        context.stroke();
      }
    }

    drawPath(context, path) {
      const ink = aligncut.theme(path.main ? "--ink" : "--quiet");
      const paper = aligncut.theme("--paper");
      const spots = path.places.map(([u, v]) => this.xy(u, v));
      context.lineJoin = "round";
      for (const [width, colour] of path.main ? [[5, paper], [2, ink]] : [[1, ink]]) {
        context.beginPath();
        spots.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
        context.lineWidth = width;
        context.strokeStyle = colour;
        context.stroke();
      }
      context.font = "600 11px system-ui, sans-serif";
      context.textAlign = "center";
      context.textBaseline = "middle";
      spots.forEach(([x, y], i) => {
        const here = path.main && i === path.at;
        const radius = path.main ? (here ? 10 : 7.5) : 2.5;
        context.beginPath();
        context.arc(x, y, radius, 0, 7);
        context.fillStyle = path.main ? (here ? aligncut.theme("--accent") : ink) : ink;
        context.fill();
        if (!path.main) return;
        context.lineWidth = 1.5;
        context.strokeStyle = paper;
        context.stroke();
        context.fillStyle = paper;
        context.fillText(String(path.layers[i]), x, y + 0.5);
      });
      if (!path.main && spots.length) {
        const [x, y] = spots[spots.length - 1];
        context.font = "11px system-ui, sans-serif";
        context.textAlign = x > this.side * 0.7 ? "right" : "left";
        context.lineWidth = 3;
        context.strokeStyle = paper;
        context.strokeText(path.name, x + (x > this.side * 0.7 ? -6 : 6), y);
        context.fillStyle = ink;
        context.fillText(path.name, x + (x > this.side * 0.7 ? -6 : 6), y);
      }
    }

    nearest(x, y, within) {
      let best = -1, least = within * within;
      for (const i of this.shown) {
        const [px, py] = this.xy(this.points.place[2 * i], this.points.place[2 * i + 1]);
        const distance = (px - x) ** 2 + (py - y) ** 2;
        if (distance < least) [best, least] = [i, distance];
      }
      return best;
    }

    pick(i) {
      if (i >= 0) this.choose(this.points.slot[i], this.points.image[i], this.points.patch[i]);
    }

    key(event) {
      if (!this.shown.length) return;
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        return this.pick(this.cursor);
      }
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      if (this.cursor < 0 || !this.slots.has(this.points.slot[this.cursor])) {
        this.cursor = this.nearest(this.side / 2, this.side / 2, 1e4);
      } else {
        const [x, y] = this.xy(this.points.place[2 * this.cursor], this.points.place[2 * this.cursor + 1]);
        let best = -1, least = Infinity;
        for (const i of this.shown) {
          const [px, py] = this.xy(this.points.place[2 * i], this.points.place[2 * i + 1]);
          const along = (px - x) * step[0] + (py - y) * step[1];
          const across = Math.abs((px - x) * step[1]) + Math.abs((py - y) * step[0]);
          if (along < 6 || across > along) continue;
          if (along + 2 * across < least) [best, least] = [i, along + 2 * across];
        }
        if (best >= 0) this.cursor = best;
      }
      this.redraw();
      this.onCursor?.(this.cursor);
    }
  };
})();
