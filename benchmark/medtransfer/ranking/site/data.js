// The boards, and scores of a part of their cells.

const DATA = JSON.parse(document.getElementById("data").textContent);
const BOARDS = DATA.boards.map(readBoard);

/** Means of one result by encoder; null where a draw is missing. */
function unpack(packed) {
  if (typeof packed !== "string") return packed;
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length / 2 }, (_, position) => {
    const whole = view.getInt16(2 * position, true);
    return whole === -32768 ? null : whole / DATA.scale;
  });
}

function column(values) {
  return Array.isArray(values)
    ? values
    : values.at.map((position) => (position === null ? null : values.texts[position]));
}

/** A board whose results are read when they are first asked for. */
function readBoard(raw) {
  const values = new Map(Object.entries(raw.values).map(([name, one]) => [name, column(one)]));
  const encoders = raw.encoders.map((position) => DATA.encoders[position]);
  let read = null;
  return {
    ...raw,
    encoders,
    label: `${raw.protocol}: ${raw.suite}${raw.kind ? `, ${raw.kind} only` : ""}`,
    value: (name, encoder) => values.get(name)?.[encoder] ?? null,
    has: (name) => values.has(name),
    get cells() {
      read ??= readCells(raw.results);
      return read;
    },
  };
}

/** One entry per task, adaptation and budget, with all of its test splits. */
function readCells(results) {
  const cells = new Map();
  for (const [task, domain, metric, split, adaptation, budget, chance, position] of results) {
    const key = JSON.stringify([task, adaptation, budget]);
    if (!cells.has(key)) {
      cells.set(key, { task, domain, metric, adaptation, budget, chance, splits: new Map() });
    }
    const series = DATA.series[position];
    cells.get(key).splits.set(split, { ...series, mean: unpack(series.mean) });
  }
  return [...cells.values()];
}

const isOptional = (cell) => DATA.optional.includes(cell.adaptation);

function mean(values) {
  if (!values.length || values.includes(null)) return null;
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

const byKey = (items, key) => [...Map.groupBy(items, key).values()];

/** Score of one cell: in-domain, or the mean over its other test splits; undefined without any. */
function cellScore(cell, encoder, outside) {
  const names = [...cell.splits.keys()].filter((name) => (name === "in_domain") !== outside);
  if (!names.length) return undefined;
  const value = mean(names.map((name) => cell.splits.get(name).mean[encoder]));
  return value === null ? null : (value - cell.chance) / (1 - cell.chance);
}

/** Mean over budgets and adaptations, then tasks, then domains; null unless all are there. */
function score(cells, encoder, outside = false) {
  const scored = cells
    .map((cell) => ({ ...cell, score: cellScore(cell, encoder, outside) }))
    .filter((cell) => cell.score !== undefined);
  const domains = byKey(scored, (cell) => cell.domain).map((domain) =>
    mean(byKey(domain, (cell) => cell.task).map((task) => mean(task.map((cell) => cell.score)))),
  );
  return mean(domains);
}

/** Whether the filters leave only a part of a board's cells. */
const selects = (state) =>
  ["domain", "budget", "adaptation", "relation"].some((name) => state[name] !== "");

/** The cells that the filters leave, of one encoder: the relation differs between encoders. */
function selected(board, state, encoder) {
  return board.cells.filter(
    (cell) =>
      (state.domain === "" || cell.domain === state.domain) &&
      (state.budget === "" || cell.budget === state.budget) &&
      (state.adaptation === "" ? !isOptional(cell) : cell.adaptation === state.adaptation) &&
      (state.relation === "" || board.value(`relation_${cell.domain}`, encoder) === state.relation),
  );
}

/** Finished and expected cells (with draws) of the given ones. */
function coverage(cells, encoder) {
  let have = 0;
  let expected = 0;
  for (const { splits } of cells) {
    const inside = splits.get("in_domain");
    expected += inside.draws;
    have += inside.have[encoder] ?? inside.draws;
  }
  return { have, expected };
}

/** All encoders of a board under the filters: one row each, in the order of the board. */
function standings(board, state) {
  const part = selects(state);
  const rows = board.encoders.map((card, encoder) => {
    const row = { card, encoder, value: (name) => board.value(name, encoder) };
    if (!part) {
      row.have = row.value("have");
      row.expected = row.value("expected");
      return row;
    }
    const cells = selected(board, state, encoder);
    const external = cells.filter((cell) => cell.splits.size > 1);
    Object.assign(row, coverage(cells, encoder));
    const complete = cells.length > 0 && row.have === row.expected;
    const inside = complete ? score(cells, encoder) : null;
    const outside = complete ? score(external, encoder, true) : null;
    const gap = outside === null ? null : score(external, encoder) - outside;
    const own = new Map([
      ["in_domain", inside],
      ["out_of_domain", outside],
      ["gap", gap],
    ]);
    row.value = (name) => (own.has(name) ? own.get(name) : board.value(name, encoder));
    return row;
  });
  if (part) {
    // Means over each encoder's own domains are means of different things.
    const comparable = state.relation === "" || state.domain !== "";
    const scores = rows.map((row) => row.value("in_domain")).filter((value) => value !== null);
    for (const row of rows) {
      const own = row.value("in_domain");
      row.rank =
        comparable && own !== null ? 1 + scores.filter((other) => other > own + 1e-9).length : null;
    }
  } else {
    for (const row of rows) row.rank = row.value("rank");
  }
  return rows;
}
