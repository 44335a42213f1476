// The photos: choose a patch, and see its similarity to every patch of every photo in the chosen model and layer.
"use strict";

(() => {
  const { element, number } = aligncut;
  const $ = (id) => document.getElementById(id);
  const PAGE_SIZE = 48;

  const state = { view: 0, model: 0, layer: -1, photo: 0, patch: 0, show: "colours", page: 0 };
  let main, view, map;
  let generation = 0; // raised by every change; drawings of an older one stop
  let refreshed = 0;
  let answer = null; // similarities of the chosen patch: {key, blocks: Map, all: Promise}
  let tidyGallery, tidyStrip;
  let playing = 0;

  // ---- where things are

  const model = () => view.models[state.model];
  const patches = (m = model()) => m.grid[0] * m.grid[1];
  const blockOf = (image) => Math.floor(image / view.perBlock);
  const inBlock = (block) => Math.min(view.perBlock, view.images.length - block * view.perBlock);
  const photoOf = (image) => main.photos[view.images[image]];
  const slotName = (m = model(), at = state.layer) => `${m.name}, layer ${m.layers[at]}`;
  const rowColumn = (patch, m = model()) => [Math.floor(patch / m.grid[1]), patch % m.grid[1]];
  const patchName = (patch) => rowColumn(patch).map((x) => x + 1);

  // The patch of another model's grid that lies at the same place of the photo.
  const translate = (patch, from, to) => {
    if (from.grid[0] === to.grid[0] && from.grid[1] === to.grid[1]) return patch;
    const [row, column] = rowColumn(patch, from);
    const place = (x, a, b) => Math.min(b - 1, Math.floor(((x + 0.5) / a) * b));
    return place(row, from.grid[0], to.grid[0]) * to.grid[1] + place(column, from.grid[1], to.grid[1]);
  };

  // ---- similarities

  const rowsPiece = (m, layer, block) => aligncut.load(`e-${state.view}-${m}-${layer}-${block}`, aligncut.decodeRows(view.nEig));

  const rowOf = (piece, m, image, patch) => {
    const at = ((image % view.perBlock) * patches(view.models[m]) + patch) * view.nEig;
    return piece.rows.subarray(at, at + view.nEig);
  };

  // Ask for the chosen patch's similarity to all patches; blocks of images arrive one by one.
  const ask = () => {
    const key = [state.view, state.model, state.layer, state.photo, state.patch].join();
    if (answer?.key === key) return answer;
    const { model: m, layer, photo, patch } = state;
    const blocks = new Map();
    const row = rowsPiece(m, layer, blockOf(photo)).then((piece) => rowOf(piece, m, photo, patch).slice());
    const of = (block) => {
      if (!blocks.has(block)) blocks.set(block, Promise.all([row, rowsPiece(m, layer, block)]).then(([own, piece]) => aligncut.compare(own, piece)));
      return blocks.get(block);
    };
    let all = null;
    const every = () => {
      all ??= (async () => {
        const parts = [];
        for (let block = 0; block * view.perBlock < view.images.length; block++) parts.push(await of(block));
        return summarize(parts);
      })();
      return all;
    };
    answer = { key, of, every };
    return answer;
  };

  // For every photo the mean of its most similar tenth; over all patches a histogram, for ranks.
  const summarize = (parts) => {
    const count = patches();
    const tenth = Math.max(1, Math.round(count / 10));
    const scores = new Float32Array(view.images.length);
    const histogram = new Float64Array(257);
    let above = 0, total = 0;
    parts.forEach((values, block) => {
      for (let i = 0; i < inBlock(block); i++) {
        const own = values.slice(i * count, (i + 1) * count).sort();
        let sum = 0;
        for (let k = count - tenth; k < count; k++) sum += own[k];
        scores[block * view.perBlock + i] = sum / tenth;
      }
      for (const value of values) {
        histogram[Math.round((Math.min(1, Math.max(-1, value)) + 1) * 128)]++;
        if (value > 0.9) above++;
      }
      total += values.length;
    });
    let below = 0;
    const ranks = histogram.map((n) => (below += n) / total);
    return { scores, ranks, above, total };
  };

  // The share of patches that are no more similar, from -1 for none to 1 for all, so that the scale's middle is the median.
  const ranked = (values, summary) => values.map((value) => 2 * summary.ranks[Math.round((Math.min(1, Math.max(-1, value)) + 1) * 128)] - 1);

  // ---- painting one picture

  const thumb = async (image) => {
    const { tile, columns, per } = main.sheet;
    const photo = view.images[image];
    const at = photo % per;
    return { picture: await aligncut.picture(`thumbs/${Math.floor(photo / per)}.jpg`), x: (at % columns) * tile, y: Math.floor(at / columns) * tile, w: tile, h: tile };
  };

  const whole = async (image) => {
    const picture = await aligncut.picture(`photos/${view.images[image]}.jpg`);
    return { picture, x: 0, y: 0, w: picture.naturalWidth, h: picture.naturalHeight };
  };

  const sheetPart = async (kind, image, m, layer) => {
    const [h, w] = view.models[m].grid;
    const at = image % view.perBlock;
    const picture = await aligncut.picture(`data/${kind}-${state.view}-${m}-${layer}-${blockOf(image)}.png`);
    return { picture, x: (at % view.columns) * w, y: Math.floor(at / view.columns) * h, w, h };
  };

  // What is laid over a photo: a small picture with one pixel per patch.
  const overlay = async (image, m, layer, show) => {
    const grid = view.models[m].grid;
    const count = patches(view.models[m]);
    if (show === "photo") return null;
    if (show === "colours") return sheetPart("c", image, m, layer);
    if (show !== "similarity") return sheetPart(show, image, m, layer);
    const at = (image % view.perBlock) * count;
    let values;
    if (m === state.model && layer === state.layer) {
      const asked = ask();
      values = (await asked.of(blockOf(image))).subarray(at, at + count);
      if ($("rank").checked) values = ranked(values, await asked.every());
    } else {
      const piece = await rowsPiece(m, layer, blockOf(image));
      const own = rowOf(piece, m, state.photo, translate(state.patch, model(), view.models[m]));
      const part = { rows: piece.rows.subarray(at * view.nEig, (at + count) * view.nEig), lengths: piece.lengths.subarray(at, at + count) };
      values = aligncut.compare(own, part);
    }
    return { picture: aligncut.heatGrid(values, grid[1], grid[0]), x: 0, y: 0, w: grid[1], h: grid[0] };
  };

  const paint = (canvas, width, height, base, over, show, shine) => {
    const context = aligncut.fit(canvas, width, height);
    context.imageSmoothingEnabled = true;
    if (base) context.drawImage(base.picture, base.x, base.y, base.w, base.h, 0, 0, width, height);
    if (!over) return context;
    if (show === "similarity" && base) {
      // the photo in grey, so that only the similarity has colour
      context.globalCompositeOperation = "saturation";
      context.fillStyle = "#888";
      context.fillRect(0, 0, width, height);
      context.globalCompositeOperation = "source-over";
    }
    context.imageSmoothingEnabled = false;
    context.globalAlpha = base ? 1 - shine : 1;
    context.drawImage(over.picture, over.x, over.y, over.w, over.h, 0, 0, width, height);
    context.globalAlpha = 1;
    return context;
  };

  const shine = () => Number($("mix").value) / 100;

  // ---- the large photo

  const drawPhoto = async (mine) => {
    const canvas = $("photo-canvas");
    const [, high, wide] = photoOf(state.photo);
    const box = $("photo");
    const width = Math.min(box.clientWidth, Math.round((Math.min(window.innerHeight * 0.7, 544) * wide) / high));
    const height = Math.round((width * high) / wide);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const [base, over] = await Promise.all([whole(state.photo), overlay(state.photo, state.model, state.layer, state.show)]);
    if (mine !== generation) return;
    const context = paint(canvas, width, height, base, over, state.show, shine());
    const [row, column] = rowColumn(state.patch);
    const [h, w] = model().grid;
    for (const [line, colour] of [[4, "#000"], [2, "#fff"]]) {
      context.lineWidth = line;
      context.strokeStyle = colour;
      context.strokeRect((column * width) / w, (row * height) / h, width / w, height / h);
    }
    box.dataset.drawn = `${state.show} ${state.model} ${state.layer} ${state.photo} ${state.patch}`;
  };

  const patchAt = (canvas, event, m = model()) => {
    const place = canvas.getBoundingClientRect();
    const within = (x, n) => Math.min(n - 1, Math.max(0, Math.floor(x * n)));
    return within((event.clientY - place.top) / place.height, m.grid[0]) * m.grid[1] + within((event.clientX - place.left) / place.width, m.grid[1]);
  };

  const hover = async (event) => {
    const patch = patchAt($("photo-canvas"), event);
    const [row, column] = patchName(patch);
    if (state.show !== "similarity") return;
    const values = await ask().of(blockOf(state.photo));
    $("place").textContent = `Row ${row}, column ${column}: similarity ${values[(state.photo % view.perBlock) * patches() + patch].toFixed(2)}`;
  };

  const tell = () => {
    const [row, column] = patchName(state.patch);
    const [id] = photoOf(state.photo);
    $("place").textContent = `Chosen: row ${row}, column ${column} of ${id}, in ${slotName()}`;
    $("photo").setAttribute("aria-label", `Photo ${id}, ${model().grid[0]} rows and ${model().grid[1]} columns of patches; chosen: row ${row}, column ${column}`);
  };

  // ---- all layers of this photo

  const stripShow = () => (state.show === "photo" ? (view.colours ? "colours" : view.nEig ? "similarity" : "photo") : state.show);

  const buildStrip = () => {
    $("strip").replaceChildren(
      ...view.models.map((m, index) =>
        element(
          "div",
          { class: "strip-row" },
          element("span", { class: "strip-name" }, m.name),
          ...m.layers.map((layer, at) => {
            const button = element("button", { type: "button", class: "tile", "aria-label": `${m.name}, layer ${layer}` }, element("canvas", { "aria-hidden": "true" }), element("span", {}, String(layer)));
            button.addEventListener("click", () => change({ model: index, layer: at }));
            return button;
          }),
        ),
      ),
    );
  };

  const drawStrip = async (mine) => {
    const show = stripShow();
    $("strip-lead").textContent =
      show === "similarity"
        ? "Cosine similarity to the chosen patch, asked in every layer by itself."
        : show === "colours"
          ? view.meaning
          : "";
    const [, high, wide] = photoOf(state.photo);
    const base = await thumb(state.photo);
    const buttons = [...$("strip").querySelectorAll("button")];
    let k = 0;
    for (const [m, each] of view.models.entries()) {
      for (const at of each.layers.keys()) {
        const button = buttons[k++];
        const here = m === state.model && at === state.layer;
        button.setAttribute("aria-current", here ? "true" : "false");
        overlay(state.photo, m, at, show).then((over) => {
          if (mine !== generation) return;
          drawTile(button.firstChild, wide / high, base, over, show);
        }, fail);
      }
    }
    tidyStrip();
    scrollStrip();
  };

  // Bring the current layer into the strip's window, without moving the page.
  const scrollStrip = () => {
    const strip = $("strip");
    const tile = strip.querySelector("[aria-current=true]");
    if (!tile) return;
    const left = tile.offsetLeft - strip.offsetLeft - strip.querySelector(".strip-name").offsetWidth;
    const right = left + tile.offsetWidth + strip.querySelector(".strip-name").offsetWidth;
    if (left < strip.scrollLeft) strip.scrollLeft = left - 12;
    else if (right > strip.scrollLeft + strip.clientWidth) strip.scrollLeft = right - strip.clientWidth + 12;
  };

  const drawTile = (canvas, ratio, base, over, show) => {
    const side = canvas.parentElement.clientWidth || 64;
    const width = ratio >= 1 ? side : Math.max(side / 3, side * ratio);
    const height = ratio >= 1 ? Math.max(side / 3, side / ratio) : side;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    paint(canvas, width, height, base, over, show, show === "photo" ? 1 : shine());
  };

  // ---- the gallery

  const given = () => view.images.map((_, i) => i);

  const drawGallery = async (mine) => {
    const similar = state.show === "similarity";
    const summary = similar && $("order").value === "similar" ? await ask().every() : null;
    if (mine !== generation) return;
    const order = given();
    if (summary) order.sort((a, b) => summary.scores[b] - summary.scores[a] || a - b);
    const pages = Math.max(1, Math.ceil(order.length / PAGE_SIZE));
    state.page = Math.min(Math.max(0, state.page), pages - 1);
    const shown = order.slice(state.page * PAGE_SIZE, (state.page + 1) * PAGE_SIZE);
    $("page-name").textContent = `Photos ${number(state.page * PAGE_SIZE + 1)} to ${number(state.page * PAGE_SIZE + shown.length)} of ${number(order.length)}`;
    $("pager").hidden = pages === 1;
    $("previous-page").disabled = state.page === 0;
    $("next-page").disabled = state.page === pages - 1;
    const gallery = $("gallery");
    while (gallery.children.length > shown.length) gallery.lastChild.remove();
    while (gallery.children.length < shown.length) gallery.append(makeTile());
    await Promise.all(
      shown.map(async (image, k) => {
        const button = gallery.children[k];
        const [id, high, wide] = photoOf(image);
        button.dataset.image = image;
        button.setAttribute("aria-current", image === state.photo ? "true" : "false");
        button.lastChild.textContent = id;
        const [base, over] = await Promise.all([thumb(image), overlay(image, state.model, state.layer, state.show)]);
        if (mine !== generation) return;
        drawTile(button.firstChild, wide / high, base, over, state.show);
        button.setAttribute("aria-label", id);
      }),
    );
    tidyGallery();
    gallery.dataset.drawn = mine;
    if (!similar || mine !== generation) return;
    const { scores } = await ask().every();
    if (mine !== generation) return;
    [...gallery.children].forEach((button) => {
      const score = scores[button.dataset.image].toFixed(2);
      const [id] = photoOf(button.dataset.image);
      button.lastChild.replaceChildren(element("b", {}, score), ` ${id}`);
      button.setAttribute("aria-label", `${id}, similarity ${score}`);
    });
  };

  const makeTile = () => {
    const button = element("button", { type: "button", class: "tile" }, element("canvas", { "aria-hidden": "true" }), element("span", {}));
    button.addEventListener("click", (event) => {
      const image = Number(button.dataset.image);
      // a key press has no place: it opens the photo at its most similar patch, or where we are
      if (event.detail === 0) openAt(image);
      else choose(image, patchAt(button.firstChild, event));
    });
    return button;
  };

  const openAt = async (image) => {
    let patch = state.patch;
    if (state.show === "similarity") {
      const at = (image % view.perBlock) * patches();
      const values = (await ask().of(blockOf(image))).subarray(at, at + patches());
      patch = values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
    }
    choose(image, patch);
    $("photo").focus();
  };

  // What a reader should take from the picture, in words; read aloud once things are still.
  const drawFinding = async (mine) => {
    if (state.show !== "similarity") {
      $("finding").textContent = "";
      return;
    }
    const { scores, above, total } = await ask().every();
    await new Promise((resolve) => setTimeout(resolve, 250));
    if (mine !== generation) return;
    const others = given().filter((i) => i !== state.photo).sort((a, b) => scores[b] - scores[a]);
    const [row, column] = patchName(state.patch);
    const share = (100 * above) / total;
    const names = others.slice(0, 3).map((i) => `${photoOf(i)[0]} (${scores[i].toFixed(2)})`);
    $("finding").textContent =
      `Row ${row}, column ${column} of ${photoOf(state.photo)[0]} in ${slotName()}: ` +
      `${share < 10 ? share.toFixed(1) : Math.round(share)} % of all patches have a similarity to it above 0.9.` +
      (names.length ? ` Closest among the other photos: ${names.join(", ")}. The number is the mean of a photo's most similar tenth.` : "");
  };

  // ---- the map

  const slotAt = (position) => {
    for (const [m, each] of view.models.entries()) {
      if (position < each.layers.length) return [m, position];
      position -= each.layers.length;
    }
    return [0, 0];
  };

  const drawMap = async (mine) => {
    $("map-figure").hidden = view.plane === null;
    if (view.plane === null) return;
    const points = await aligncut.load(`points-${state.view}`, aligncut.Map.decode);
    const slots = new Set();
    let position = 0;
    const here = $("map-here").checked || view.group === "layer";
    view.models.forEach((each, m) =>
      each.layers.forEach((_, at) => {
        const fits = here ? m === state.model && at === state.layer : view.group === "all" || m === state.model;
        if (fits) slots.add(position);
        position++;
      }),
    );
    const by = $("map-colour").value;
    const deepest = Math.max(1, ...view.models.map((m) => m.layers.length - 1));
    const colourOf = {
      layer: (slot) => aligncut.css(aligncut.layerColour(slotAt(slot)[1] / deepest)),
      model: (slot) => aligncut.theme(`--series-${slotAt(slot)[0] % 6}`),
    }[by];
    const cached = new Map();
    const quick = colourOf && ((slot) => cached.get(slot) ?? (cached.set(slot, colourOf(slot)), cached.get(slot)));
    const paths = [];
    if (view.group !== "layer") {
      const block = blockOf(state.photo);
      for (const [m, each] of view.models.entries()) {
        if (view.group === "model" && m !== state.model) continue;
        const places = await aligncut.load(`m-${state.view}-${m}-${block}`, aligncut.decodePlaces);
        const patch = translate(state.patch, model(), each);
        const at = (layer) => ((layer * inBlock(block) + (state.photo % view.perBlock)) * patches(each) + patch) * 2;
        paths.push({ places: each.layers.map((_, layer) => [places[at(layer)], places[at(layer) + 1]]), layers: each.layers, name: each.name, main: m === state.model, at: state.layer });
      }
    }
    if (mine !== generation) return;
    map.draw(points, slots, quick, paths);
    const [row, column] = patchName(state.patch);
    $("map").setAttribute("aria-label", `Map of ${number(map.shown.length)} patches`);
    $("map-caption").textContent =
      view.group === "layer"
        ? `The map of ${slotName()}; every layer has a map of its own.`
        : `The path of row ${row}, column ${column} of ${photoOf(state.photo)[0]} through the layers of ${model().name}; numbers are layers${view.group === "all" && view.models.length > 1 ? ", thin lines the other models" : ""}.`;
    if (view.plane === 3) $("map-caption").append(" (Two of the three axes of the colour map; a 2-D tsne store has a map of its own.)");
    $("map").dataset.drawn = mine;
  };

  const fillMapColours = () => {
    const kinds = [...(view.colours ? [["own", "AlignedCut colour"]] : []), ["layer", "layer"], ...(view.models.length > 1 ? [["model", "model"]] : [])];
    $("map-colour").replaceChildren(...kinds.map(([value, text]) => element("option", { value }, text)));
  };

  // ---- legend

  const drawLegend = () => {
    const legend = $("legend");
    if (state.show === "similarity") {
      const bar = element("span", { class: "scale-bar", "aria-hidden": "true" });
      bar.style.background = `linear-gradient(to right, ${[-1, -0.67, -0.33, 0, 0.33, 0.67, 1].map((t) => aligncut.css(aligncut.heat(t))).join(",")})`;
      const ends = $("rank").checked ? ["least similar", "most similar"] : ["-1", "1"];
      legend.replaceChildren(element("p", { class: "scale" }, ends[0], bar, ends[1], $("rank").checked ? "" : " cosine similarity"));
    } else if (state.show === "colours") {
      legend.replaceChildren(element("p", { class: "quiet" }, view.meaning));
    } else {
      const labels = view.labels[Number(state.show.slice(1))];
      const classes = state.show.startsWith("s") && labels ? labels.classes : [];
      const items = classes.slice(0, 60).map((name, i) => {
        const swatch = element("span", { class: "swatch" });
        swatch.style.background = aligncut.css(aligncut.hexColour(main.labelColours[i % main.labelColours.length]));
        return element("li", {}, swatch, name);
      });
      legend.replaceChildren(...(items.length ? [element("ul", { class: "legend" }, ...items)] : []));
    }
  };

  // ---- changes

  const refresh = () => {
    cancelAnimationFrame(refreshed);
    refreshed = requestAnimationFrame(() => {
      const mine = ++generation;
      tell();
      drawLegend();
      for (const draw of [drawPhoto, drawMap, drawGallery, drawStrip, drawFinding]) draw(mine).catch(fail);
      remember();
    });
  };

  const fail = (error) => aligncut.fail(error);

  const change = (values) => {
    const before = model();
    Object.assign(state, values);
    state.layer = Math.min(state.layer, model().layers.length - 1);
    if (model() !== before && values.patch === undefined) state.patch = translate(state.patch, before, model());
    state.patch = Math.min(Math.max(0, state.patch), patches() - 1);
    sync();
    refresh();
  };

  // Choose a patch: its similarities are what one wants to see then.
  const choose = (photo, patch) => change({ photo, patch, ...(view.nEig ? { show: "similarity" } : {}) });

  const sync = () => {
    const slider = $("layer");
    slider.max = model().layers.length - 1;
    slider.value = state.layer;
    slider.setAttribute("aria-valuetext", `layer ${model().layers[state.layer]}`);
    $("layer-name").textContent = model().layers[state.layer];
    $("photo-choice").value = state.photo;
    for (const radio of document.querySelectorAll("input[name=model]")) radio.checked = Number(radio.value) === state.model;
    for (const radio of document.querySelectorAll("input[name=show]")) radio.checked = radio.value === state.show;
    $("rank-field").hidden = state.show !== "similarity";
    $("order").disabled = state.show !== "similarity";
    $("previous-photo").disabled = state.photo === 0;
    $("next-photo").disabled = state.photo === view.images.length - 1;
  };

  const radios = (name, items, picked) =>
    items.map(([value, text]) => {
      const input = element("input", { type: "radio", name, value });
      input.addEventListener("change", () => picked(value));
      return element("label", {}, input, element("span", {}, text));
    });

  const setView = (index, wanted = {}) => {
    state.view = index;
    view = main.views[index];
    answer = null;
    $("models").replaceChildren(...radios("model", view.models.map((m, i) => [i, m.name]), (m) => change({ model: Number(m) })));
    const shows = [["photo", "Photo"], ...(view.colours ? [["colours", "Colours"]] : []), ...(view.nEig ? [["similarity", "Similarity"]] : []), ...view.labels.map((set, i) => [`s${i}`, `Segments: ${set.name}`])];
    $("shows").replaceChildren(...radios("show", shows, (show) => change({ show })));
    $("photo-choice").replaceChildren(...view.images.map((_, i) => element("option", { value: i }, photoOf(i)[0])));
    fillMapColours();
    buildStrip();
    const warning = view.controls.length ? `This space is a control (${view.controls.join(", ")}), not the real responses.` : "";
    $("space").setAttribute("aria-description", warning);
    const within = (value, count, otherwise) => (Number.isInteger(value) && value >= 0 && value < count ? value : otherwise);
    state.model = within(wanted.model ?? state.model, view.models.length, 0);
    // begin where the first and the last layers are a step away
    state.layer = within(wanted.layer ?? state.layer, model().layers.length, Math.floor(0.7 * model().layers.length));
    state.photo = within(wanted.photo ?? state.photo, view.images.length, 0);
    const centre = Math.floor(model().grid[0] / 2) * model().grid[1] + Math.floor(model().grid[1] / 2);
    state.patch = within(wanted.patch ?? -1, patches(), centre);
    const known = shows.map(([value]) => value);
    state.show = [wanted.show, state.show, "colours", "similarity", "photo"].find((show) => known.includes(show));
    state.page = 0;
    sync();
    refresh();
  };

  const remember = () => {
    const { view: v, model: m, layer, photo, patch, show } = state;
    const text = new URLSearchParams({ space: v, model: m, layer, photo, patch, show });
    history.replaceState(null, "", `#${text}`);
  };

  const recall = () => {
    const found = new URLSearchParams(location.hash.slice(1));
    const wanted = { show: found.get("show") };
    for (const name of ["model", "layer", "photo", "patch"]) wanted[name] = found.has(name) ? Number(found.get(name)) : undefined;
    const index = Number(found.get("space") ?? 0);
    return [main.views[index] ? index : 0, wanted];
  };

  const step = (by) => {
    const next = state.photo + by;
    if (next >= 0 && next < view.images.length) change({ photo: next });
  };

  const keys = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [row, column] = rowColumn(state.patch);
    const [h, w] = model().grid;
    const to = (r, c) => choose(state.photo, Math.min(h - 1, Math.max(0, r)) * w + Math.min(w - 1, Math.max(0, c)));
    const deeper = (by) => change({ layer: Math.min(model().layers.length - 1, Math.max(0, state.layer + by)) });
    const act = {
      ArrowLeft: () => to(row, column - 1),
      ArrowRight: () => to(row, column + 1),
      ArrowUp: () => to(row - 1, column),
      ArrowDown: () => to(row + 1, column),
      Home: () => to(row, 0),
      End: () => to(row, w - 1),
      PageUp: () => deeper(-1),
      PageDown: () => deeper(1),
      Enter: () => to(row, column),
      ",": () => step(-1),
      ".": () => step(1),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  };

  const play = (on) => {
    clearInterval(playing);
    playing = on ? setInterval(() => change({ layer: (state.layer + 1) % model().layers.length }), 900) : 0;
    $("play").setAttribute("aria-pressed", on ? "true" : "false");
    $("play").textContent = on ? "Stop" : "Play";
  };

  // ---- beginning

  aligncut.explore = (content) => {
    main = content;
    if (!main.views.length) return;
    $("explore").hidden = false;
    map = new aligncut.Map($("map"), $("map-canvas"), (slot, photo, patch) => {
      const [m, layer] = slotAt(slot);
      change({ model: m, layer, photo, patch, ...(view.nEig ? { show: "similarity" } : {}) });
    });
    map.onCursor = (i) => {
      if (i < 0) return;
      const [m, layer] = slotAt(map.points.slot[i]);
      const each = view.models[m];
      const [row, column] = rowColumn(map.points.patch[i], each);
      aligncut.say(`${each.name} layer ${each.layers[layer]}, ${photoOf(map.points.image[i])[0]}, row ${row + 1}, column ${column + 1}`);
    };
    const inRow = (container) => () => {
      const all = [...container.querySelectorAll("button")];
      return Math.max(1, all.filter((button) => button.offsetTop === all[0].offsetTop).length);
    };
    tidyGallery = aligncut.rove($("gallery"), inRow($("gallery")));
    tidyStrip = aligncut.rove($("strip"), () => view.models[state.model].layers.length);
    $("space-field").hidden = main.views.length < 2;
    $("space").replaceChildren(...main.views.map((each, i) => element("option", { value: i }, each.controls.length ? `${each.name} (CONTROL: ${each.controls.join(", ")})` : each.name)));
    $("space").addEventListener("change", (event) => setView(Number(event.target.value)));
    $("layer").addEventListener("input", (event) => change({ layer: Number(event.target.value) }));
    $("play").addEventListener("click", () => play(!playing));
    $("photo").addEventListener("click", (event) => choose(state.photo, patchAt($("photo-canvas"), event)));
    $("photo").addEventListener("mousemove", (event) => hover(event).catch(fail));
    $("photo").addEventListener("mouseleave", tell);
    $("photo").addEventListener("keydown", keys);
    $("photo-choice").addEventListener("change", (event) => change({ photo: Number(event.target.value) }));
    $("previous-photo").addEventListener("click", () => step(-1));
    $("next-photo").addEventListener("click", () => step(1));
    $("previous-page").addEventListener("click", () => change({ page: state.page - 1 }));
    $("next-page").addEventListener("click", () => change({ page: state.page + 1 }));
    $("order").addEventListener("change", () => change({ page: 0 }));
    for (const id of ["map-colour", "map-here", "rank", "mix"]) $(id).addEventListener("input", refresh);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
    let width = window.innerWidth;
    window.addEventListener("resize", () => {
      if (window.innerWidth !== width) refresh();
      width = window.innerWidth;
    });
    const [index, wanted] = recall();
    $("space").value = index;
    setView(index, wanted);
  };

  // For tests and for the curious: similarities of the chosen patch to the photo that is shown.
  aligncut.shown = async () => {
    const values = await ask().of(blockOf(state.photo));
    const at = (state.photo % view.perBlock) * patches();
    return { ...state, similarities: [...values.subarray(at, at + patches())] };
  };
})();
