// The table of a board: columns, rows and their order.

const SECTIONS = [
  ["overall", "Scores"],
  ["domains", "Domains"],
  ["transfer", "Transfer"],
  ["cost", "Cost"],
];
// Columns that say the same of any part of a board's cells.
const OF_ENCODER = ["parameters", "inference_flops_per_image", "status"];
const RECOMPUTED = ["in_domain", "out_of_domain", "gap"];
const RELATIONS = { intra: "intra", inter: "inter", none: "random weights" };
// Of these less is better, so the first click sorts upwards.
const UPWARDS = ["rank", "mean rank", "FLOP", "count", "seconds", "bytes", "joules", "text"];

const sectionsOf = (board) =>
  SECTIONS.filter(([section]) => board.columns.some((one) => one.section === section));

/** The columns on the right of the headline score. */
function shownColumns(board, state) {
  const [headline, ...others] = board.columns;
  if (selects(state)) {
    const known = [...RECOMPUTED, ...OF_ENCODER];
    return [headline, ...others.filter((one) => known.includes(one.name))];
  }
  return [headline, ...others.filter((one) => one.section === state.section)];
}

/** The rows that the text, the architecture and the status leave. */
function filterRows(rows, state) {
  const wanted = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter(({ card, value }) => {
    const text = `${card.name} ${card.title} ${card.architecture}`.toLowerCase();
    return (
      wanted.every((word) => text.includes(word)) &&
      (state.family === "" || card.family === state.family) &&
      (state.status === "" || value("status") === state.status)
    );
  });
}

/** Sorted by one column; what is unknown comes last, whichever the direction. */
function sortRows(rows, sort) {
  const name = sort.replace(/^-/, "");
  const sign = sort.startsWith("-") ? -1 : 1;
  const keys = new Map(
    rows.map((row) => [
      row,
      name === "rank" ? row.rank : name === "name" ? row.card.name : row.value(name),
    ]),
  );
  return [...rows].sort((left, right) => {
    const [a, b] = [keys.get(left), keys.get(right)];
    if (a === null || b === null)
      return (a === null) - (b === null) || left.place - right.place;
    const order = typeof a === "string" ? a.localeCompare(b, "en") : a - b;
    return sign * order || left.place - right.place;
  });
}

function heading({ name, title, unit }, state) {
  const first = UPWARDS.includes(unit) ? name : `-${name}`;
  const second = first === name ? `-${name}` : name;
  const current = state.sort.replace(/^-/, "") === name;
  const direction = state.sort.startsWith("-") ? "descending" : "ascending";
  return make(
    "th",
    {
      scope: "col",
      class: unit === "text" ? "text" : null,
      "aria-sort": current ? direction : null,
    },
    make("button", { type: "button", "data-sort": state.sort === first ? second : first }, title),
  );
}

const bounds = (low, high) => (low === high ? String(low) : `${low}\u2013${high}`);

/** The rank; where there is no room for the interval's own column, it stands below. */
function rankCell(row, interval) {
  const cell = make("td", { class: "rank" }, row.rank === null ? MISSING : String(row.rank));
  const [low, high] = [row.value("rank_low"), row.value("rank_high")];
  if (interval && low !== null) cell.append(make("small", {}, bounds(low, high)));
  return cell;
}

/** Interval of the rank, on a scale from the first to the last. */
function intervalCell(row, count) {
  const [low, high] = [row.value("rank_low"), row.value("rank_high")];
  if (low === null) return make("td", { class: "interval" });
  const range = make("span", { class: "range" });
  const point = make("span", { class: "point" });
  const width = 100 / count;
  range.style.left = `${(low - 1) * width}%`;
  range.style.width = `${(high - low + 1) * width}%`;
  point.style.left = `${(row.rank - 0.5) * width}%`;
  const [lowTasks, highTasks] = [row.value("rank_low_tasks"), row.value("rank_high_tasks")];
  const further = lowTasks === null ? "" : `; with other tasks ${lowTasks} to ${highTasks}`;
  return make(
    "td",
    { class: "interval", title: `95 % interval of the rank: ${low} to ${high}${further}` },
    make("span", { class: "scale", "aria-hidden": "true" }, range, point),
    make("span", { class: "bounds" }, bounds(low, high)),
  );
}

function scoreCell(row, one, part) {
  const value = row.value(one.name);
  const cell = make(
    "td",
    { class: one.unit === "text" ? "text" : null },
    quantity(value, one.unit),
  );
  const low = part ? null : row.value(`${one.name}_low`);
  if (low !== null) {
    const ends = [low, row.value(`${one.name}_high`)].map((end) => quantity(end, "score"));
    cell.append(make("small", { title: "95 % interval" }, ` [${ends.join(", ")}]`));
  }
  const relation = one.domain === null ? null : row.value(`relation_${one.domain}`);
  if (one.domain !== null && value !== null && relation === "intra") {
    cell.append(make("sup", { title: "Pre-trained on this domain" }, "intra"));
  }
  return cell;
}

function nameCell(row, state) {
  const { card } = row;
  const parts = [
    make("a", { href: addressOf({ ...state, encoder: card.name }) }, foreign(card.name, 40)),
  ];
  if (row.value("contamination") === "overlap") {
    parts.push(
      make(
        "span",
        { class: "tag", title: "Its declared pre-training data overlap with a task" },
        "overlap",
      ),
    );
  }
  if (row.have < row.expected) {
    parts.push(
      make(
        "span",
        { class: "tag", title: row.value("error")?.slice(0, 500) },
        `${row.have} of ${row.expected} cells`,
      ),
    );
  }
  if (card.title) parts.push(make("span", { class: "title" }, foreign(card.title, 48)));
  return make("th", { scope: "row" }, parts);
}

/** The whole table as an element that scrolls by itself. */
function boardTable(board, state, rows) {
  const part = selects(state);
  const columns = shownColumns(board, state);
  const interval = !part && board.has("rank_low");
  const head = [
    heading({ name: "rank", title: "Rank", unit: "rank" }, state),
    interval ? make("th", { scope: "col", class: "interval" }, "Interval") : null,
    heading({ name: "name", title: "Encoder", unit: "text" }, state),
    ...columns.map((one) => heading(one, state)),
  ];
  let group = null;
  const body = rows.map((row) => {
    const tie = row.value("tie");
    const starts = !part && state.sort === "rank" && group !== null && tie !== group;
    group = tie;
    const classes = [row.rank === null ? "unranked" : null, starts ? "starts" : null];
    return make(
      "tr",
      { class: classes.filter(Boolean).join(" ") || null },
      rankCell(row, interval),
      interval ? intervalCell(row, board.ranked) : [],
      nameCell(row, state),
      columns.map((one) => scoreCell(row, one, part)),
    );
  });
  const drawn = head.filter((cell) => cell !== null);
  return scrollTable("Board", drawn, body, { caption: board.label, style: "scroll board" });
}
