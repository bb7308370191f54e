// Elements made of text nodes only: nothing that a card or a record says is read as markup.

const MISSING = "\u2013";

/** Make an element; attributes that are null are left out, children may be nested lists. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null));
  return element;
}

/** Text of unknown origin, cut; whole in the tooltip, and apart from the direction around it. */
function foreign(text, limit = 80) {
  const line = String(text).replace(/\s+/g, " ").trim();
  const characters = Array.from(line);
  if (characters.length <= limit) return make("bdi", {}, line);
  return make(
    "bdi",
    { title: line },
    `${characters
      .slice(0, limit - 1)
      .join("")
      .trimEnd()}\u2026`,
  );
}

/** A link to http or https; every other address stays text. */
function address(text) {
  let url = null;
  try {
    url = new URL(text);
  } catch {
    return foreign(text, 200);
  }
  if (!["http:", "https:"].includes(url.protocol)) return foreign(text, 200);
  return make("a", { href: url.href, rel: "noopener noreferrer" }, foreign(text, 80));
}

const menuItems = (pairs, chosen) =>
  pairs.map(([value, text]) =>
    make("option", { value, selected: value === chosen ? "" : null }, text),
  );

/** A labelled menu; `options` are [value, text] pairs, or [group, pairs]. */
function menu(name, label, options, chosen) {
  const items = options.map(([value, text]) =>
    Array.isArray(text)
      ? make("optgroup", { label: value }, ...menuItems(text, chosen))
      : menuItems([[value, text]], chosen),
  );
  return make("label", {}, make("span", {}, label), make("select", { name }, items));
}

/** A table that scrolls by itself; `head` and `rows` are made of elements. */
function scrollTable(label, head, rows, { caption = label, style = "scroll" } = {}) {
  const body = [
    make("caption", { class: "hidden" }, caption),
    make("thead", {}, make("tr", {}, head)),
    make("tbody", {}, rows),
  ];
  const attributes = { class: style, tabindex: "0", role: "region", "aria-label": label };
  return make("div", attributes, make("table", {}, body));
}

/** A table of text: the first column is its rows' heading. */
function plainTable(caption, head, rows) {
  const cells = ([first, ...others]) => [
    make("th", { scope: "row" }, first),
    ...others.map((value) => make("td", {}, value)),
  ];
  return scrollTable(
    caption,
    head.map((text) => make("th", { scope: "col" }, text)),
    rows.map((row) => make("tr", {}, cells(row))),
  );
}

/** A paragraph of explanation. */
const remark = (...children) => make("p", { class: "note" }, ...children);

/** A list of notes. */
const bullets = (lines) =>
  make(
    "ul",
    { class: "notes" },
    lines.map((line) => make("li", {}, line)),
  );

/** A number with its unit, as in README.md: 3.6 GFLOP, 45.1 M, 2.1 h. */
function quantity(value, unit) {
  if (value === null) return MISSING;
  if (unit === "text") return foreign(value, 120);
  if (unit === "score")
    return (Math.round(value * 1000) / 1000 + 0).toFixed(3).replace("-", "\u2212");
  if (unit === "share") return `${(100 * value).toFixed(0)} %`;
  if (unit === "rank") return String(value);
  if (unit === "mean rank") return value.toFixed(1);
  if (unit === "seconds") {
    if (value < 120) return `${value.toFixed(1)} s`;
    return value < 7200 ? `${(value / 60).toFixed(0)} min` : `${(value / 3600).toFixed(1)} h`;
  }
  let power = 0;
  let scaled = value;
  for (; scaled >= 999.95 && power < 6; power += 1) scaled /= 1000;
  const symbol = { FLOP: "FLOP", bytes: "B", joules: "J" }[unit] ?? "";
  const prefix = ["", "k", "M", "G", "T", "P", "E"][power];
  return `${scaled.toFixed(power ? 1 : 0)} ${prefix}${symbol}`.trim();
}
