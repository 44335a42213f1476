// Builds the page around the photos: title, warnings, sections, and where everything came from.
"use strict";

(() => {
  const { element } = aligncut;
  const $ = (id) => document.getElementById(id);

  aligncut.say = (text) => {
    $("live").textContent = text;
  };

  aligncut.fail = (error) => {
    $("failure").textContent = `${error.message}. Keep the report's folder together, and open its index.html there.`;
    $("failure").hidden = false;
    console.error(error);
  };

  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

  const drawHead = (main) => {
    document.title = main.title;
    $("title").textContent = main.title;
    const models = [...new Set(main.views.flatMap((view) => view.models.map((m) => m.name)))];
    const layers = Math.max(0, ...main.views.map((view) => view.models.reduce((sum, m) => sum + m.layers.length, 0)));
    const parts = [plural(main.photos.length, "photo"), models.length ? `${models.join(", ")} (${plural(layers, "layer")})` : "", `aligncut ${main.version}`];
    $("subtitle").textContent = parts.filter(Boolean).join(" · ");
    const controls = main.stores.filter((store) => store.controls.length);
    if (controls.length) {
      $("controls-warning").hidden = false;
      $("controls-warning").append(
        element("strong", {}, "Control, not the real responses. "),
        "These stores were made with shuffled or random targets on purpose: ",
        controls.map((store) => `${store.name} (${store.controls.join(", ")})`).join("; "),
        ". Nothing in them is a finding.",
      );
    }
    const missing = main.photos.filter((photo) => !photo[3]).length;
    const notes = [...main.notes, ...(missing ? [`${plural(missing, "photo")} could not be found when this page was made.`] : [])];
    for (const note of notes) $("subtitle").after(element("p", { class: "quiet" }, note));
  };

  const drawSections = (main) => {
    const built = main.sections.map((section) => {
      const node = element("section", { id: `section-${section.id}`, "aria-labelledby": `title-${section.id}` }, element("h2", { id: `title-${section.id}` }, section.title), element("p", { class: "lead" }, section.lead));
      aligncut.shareScales(section.parts.flatMap((part) => part.blocks).filter((block) => block.kind === "bars"));
      for (const part of section.parts) {
        if (section.parts.length > 1 || part.controls.length) node.append(element("h3", {}, part.name));
        if (part.controls.length) node.append(element("p", { class: "warning" }, `Control, not the real responses: ${part.controls.join(", ")}.`));
        node.append(...part.blocks.map(aligncut.drawBlock));
      }
      return node;
    });
    $("sections").replaceChildren(...built);
  };

  const pairs = (title, rows) =>
    rows.length
      ? element("table", { class: "pairs" }, element("caption", {}, title), element("tbody", {}, ...rows.map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value)))))
      : null;

  const drawStores = (main) => {
    const overview = aligncut.tableBlock({
      title: "All stores",
      header: ["store", "command", "kind", "seed", "made", "aligncut", "control", "digest"],
      numeric: [false, false, false, true, false, false, false, false],
      rows: main.stores.map((store) => [
        store.name, `aligncut ${store.stage}`, store.kind, store.seed, store.created.replace("T", " ").replace("+00:00", " UTC"),
        Object.fromEntries(store.software).aligncut ?? "", store.controls.join(", "), store.digest,
      ]),
    });
    const each = main.stores.map((store) =>
      element(
        "details",
        { class: "store" },
        element("summary", {}, `${store.name}: aligncut ${store.stage}${store.controls.length ? ` – CONTROL: ${store.controls.join(", ")}` : ""}`),
        element("p", { class: "path" }, store.path),
        element(
          "div",
          { class: "pairs-group" },
          pairs("Parameters", store.params),
          pairs("Inputs", store.inputs.map(([kind, path, digest]) => [kind, `${path} (${digest})`])),
          pairs("Results", store.summary),
          pairs("Further causes", store.extra),
          pairs("Versions", store.software),
          pairs("Run", store.runtime),
        ),
      ),
    );
    $("stores").replaceChildren(overview, ...each);
  };

  const drawNav = (main) => {
    const entries = [...(main.views.length ? [["explore", "Explore"]] : []), ...main.sections.map((section) => [`section-${section.id}`, section.title]), ["made", "How it was made"]];
    $("nav").replaceChildren(
      ...entries.map(([id, text]) => {
        const link = element("a", { href: `#${id}` }, text);
        // the address keeps what is shown, so links scroll without changing it
        link.addEventListener("click", (event) => {
          event.preventDefault();
          const target = $(id);
          target.scrollIntoView();
          target.tabIndex = -1;
          target.focus({ preventScroll: true });
        });
        return link;
      }),
    );
  };

  aligncut.start = (main) => {
    drawHead(main);
    drawNav(main);
    drawSections(main);
    drawStores(main);
    $("footer").textContent = `Made by aligncut ${main.version}. This folder is the whole report: nothing is loaded from elsewhere.`;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawSections(main));
    aligncut.explore(main);
  };
})();
