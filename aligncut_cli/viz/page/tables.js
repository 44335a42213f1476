// Tables that sort by any column and can be taken away as CSV.
"use strict";

(() => {
  const { element } = aligncut;

  const csvCell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  // A button that saves rows as a CSV file, made in the browser.
  aligncut.downloadButton = (name, header, rows) => {
    const button = element("button", { type: "button", class: "small" }, "Download CSV");
    button.setAttribute("aria-label", `Download ${name} as CSV`);
    button.addEventListener("click", () => {
      const text = [header, ...rows].map((row) => row.map(csvCell).join(",")).join("\n") + "\n";
      const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
      const link = element("a", { href: url, download: `${name.replace(/[^A-Za-z0-9]+/g, "-").toLowerCase()}.csv` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
      aligncut.say(`${rows.length} rows saved`);
    });
    return button;
  };

  aligncut.tableBlock = (block) => {
    const state = { column: -1, down: false };
    const body = element("tbody");
    const show = (value, column) => (block.numeric[column] ? aligncut.number(value) : value === null ? "" : String(value));
    const draw = () => {
      const rows = [...block.rows];
      const c = state.column;
      if (c >= 0) {
        const sign = state.down ? -1 : 1;
        rows.sort((a, b) => {
          if (a[c] === null || b[c] === null) return (a[c] === null) - (b[c] === null);
          if (block.numeric[c]) return sign * (a[c] - b[c]);
          return sign * String(a[c]).localeCompare(String(b[c]), "en", { numeric: true });
        });
      }
      body.replaceChildren(
        ...rows.map((row) =>
          element(
            "tr",
            {},
            ...row.map((value, i) =>
              element(i === 0 ? "th" : "td", { scope: i === 0 ? "row" : null, class: block.numeric[i] ? "number" : null }, show(value, i)),
            ),
          ),
        ),
      );
    };
    const heads = block.header.map((name, i) => {
      const button = element("button", { type: "button" }, name);
      const head = element("th", { scope: "col", class: block.numeric[i] ? "number" : null }, button);
      button.addEventListener("click", () => {
        state.down = state.column === i ? !state.down : block.numeric[i];
        state.column = i;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
        draw();
        aligncut.say(`sorted by ${name}, ${state.down ? "descending" : "ascending"}`);
      });
      return head;
    });
    draw();
    const table = element("table", { class: "data" }, element("caption", { class: "hidden-text" }, block.title), element("thead", {}, element("tr", {}, ...heads)), body);
    const tools = element("p", { class: "tools" }, aligncut.downloadButton(block.title, block.header, block.rows));
    if (block.file) tools.append(" ", element("a", { href: block.file, download: "" }, "the whole file"));
    const box = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": block.title }, table);
    const details = element("details", { open: block.open !== false }, element("summary", {}, `${block.title} (${block.rows.length} ${block.rows.length === 1 ? "row" : "rows"})`));
    if (block.about) details.append(element("p", { class: "quiet" }, block.about));
    details.append(tools, box);
    return details;
  };
})();
